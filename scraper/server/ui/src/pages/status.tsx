// The pages that show what the server says of itself, with the few orders that one may give it there.
import { useState } from 'preact/hooks';
import { api } from '../api';
import { Facts, LabelChips, Load, Notice } from '../parts';
import { formatDuration, formatTime } from '../time';
import { useApi } from '../use';

export function StatusPage() {
  const runtime = useApi<Record<string, string | number | boolean>>('status/runtimeinfo');
  const build = useApi<Record<string, string>>('status/buildinfo');
  return (
    <>
      <h1>Status</h1>
      <h2>Runtime</h2>
      <Load from={runtime}>{(facts) => <Facts rows={Object.entries(facts).map(([k, v]) => [k, String(v)])} />}</Load>
      <h2>Build</h2>
      <Load from={build}>{(facts) => <Facts rows={Object.entries(facts).map(([k, v]) => [k, String(v)])} />}</Load>
    </>
  );
}

export function FlagsPage() {
  const flags = useApi<Record<string, string>>('status/flags');
  return (
    <>
      <h1>Command-line flags</h1>
      <Load from={flags}>{(all) => <Facts rows={Object.entries(all).sort().map(([k, v]) => [`--${k}`, v])} />}</Load>
    </>
  );
}

export function ConfigPage() {
  const config = useApi<{ yaml: string }>('status/config');
  return (
    <>
      <h1>Configuration</h1>
      <Load from={config}>
        {({ yaml }) => (
          <>
            <button onClick={() => navigator.clipboard?.writeText(yaml)}>Copy</button>
            <pre class="yaml">{yaml}</pre>
          </>
        )}
      </Load>
    </>
  );
}

interface Stat {
  name: string;
  value: number;
}

interface Tsdb {
  headStats: { numSeries: number; numLabelPairs: number; chunkCount: number; minTime: number; maxTime: number };
  seriesCountByMetricName: Stat[];
  labelValueCountByLabelName: Stat[];
  memoryInBytesByLabelName: Stat[];
  seriesCountByLabelValuePair: Stat[];
}

export function TsdbPage() {
  const tsdb = useApi<Tsdb>('status/tsdb');
  return (
    <>
      <h1>TSDB status</h1>
      <Load from={tsdb}>
        {(s) => (
          <>
            <Facts
              rows={[
                ['Series', s.headStats.numSeries.toLocaleString('en')],
                ['Label pairs', s.headStats.numLabelPairs.toLocaleString('en')],
                ['Chunks', s.headStats.chunkCount.toLocaleString('en')],
                ['Oldest sample', time(s.headStats.minTime)],
                ['Newest sample', time(s.headStats.maxTime)],
              ]}
            />
            <div class="columns">
              <Top title="Series by metric name" rows={s.seriesCountByMetricName} />
              <Top title="Values by label name" rows={s.labelValueCountByLabelName} />
              <Top title="Memory by label name (bytes)" rows={s.memoryInBytesByLabelName} />
              <Top title="Series by label pair" rows={s.seriesCountByLabelValuePair} />
            </div>
            <DeleteSeries />
          </>
        )}
      </Load>
    </>
  );
}

function time(ms: number): string {
  return ms === 0 ? 'none' : formatTime(ms);
}

/** Deletes by the admin API, which answers with its own words when it is off. */
function DeleteSeries() {
  const [matcher, setMatcher] = useState('');
  const [said, setSaid] = useState<{ kind: 'error' | 'info'; text: string }>();
  const order = (path: string, params: Record<string, string>, done: string) =>
    api<unknown>(`admin/tsdb/${path}`, params).then(
      () => setSaid({ kind: 'info', text: done }),
      (e: Error) => setSaid({ kind: 'error', text: e.message }),
    );
  return (
    <section>
      <h2>Delete series</h2>
      <form
        class="bar"
        onSubmit={(e) => {
          e.preventDefault();
          if (confirm(`Delete every sample of ${matcher}?`)) void order('delete_series', { 'match[]': matcher }, `The samples of ${matcher} are deleted.`);
        }}
      >
        <input required aria-label="Series to delete" placeholder='Selector, for example up{job="gone"}' value={matcher} onInput={(e) => setMatcher(e.currentTarget.value)} />
        <button>Delete</button>
        <button type="button" onClick={() => order('clean_tombstones', {}, 'The space of deleted samples is free again.')}>Clean tombstones</button>
      </form>
      {said && <Notice kind={said.kind}>{said.text}</Notice>}
    </section>
  );
}

function Top({ title, rows }: { title: string; rows: Stat[] }) {
  const max = Math.max(1, ...(rows ?? []).map((r) => r.value));
  return (
    <section>
      <h2>{title}</h2>
      <table class="result">
        <tbody>
          {(rows ?? []).map((r) => (
            <tr key={r.name}>
              <td><span class="meter" style={{ width: `${(100 * r.value) / max}%` }} />{r.name}</td>
              <td class="value nowrap">{r.value.toLocaleString('en')}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

interface Active {
  id: number;
  query: string;
  client: string;
  path: string;
  seconds: number;
}

export function ActiveQueriesPage() {
  const active = useApi<Active[]>('status/active_queries');
  const [error, setError] = useState<string>();
  const cancel = (id: number) => {
    api<unknown>('admin/cancel_query', { id: String(id) }).then(() => { setError(undefined); active.reload(); }, (e: Error) => setError(e.message));
  };
  return (
    <>
      <h1>Active queries</h1>
      <div class="bar"><button onClick={active.reload}>Refresh</button></div>
      {error && <Notice kind="error">{error}</Notice>}
      <Load from={active}>
        {(all) =>
          all.length ? (
            <div class="scroll">
              <table class="result">
                <thead><tr><th>Query</th><th>Asked by</th><th>Running for</th><th /></tr></thead>
                <tbody>
                  {all.map((q) => (
                    <tr key={q.id}>
                      <td><code>{q.query}</code></td>
                      <td>{q.client}<div class="muted small">{q.path}</div></td>
                      <td>{formatDuration(Math.round(q.seconds * 1000))}</td>
                      <td><button class="small" onClick={() => cancel(q.id)}>Cancel</button></td>
                    </tr>
                  ))}
                </tbody>
              </table>
            </div>
          ) : <p class="muted">No query is being evaluated.</p>
        }
      </Load>
    </>
  );
}

interface Rules {
  groups: { name: string; file: string; rules: { name: string; query: string; health: string; lastError?: string }[] }[];
}

export function RulesPage() {
  const rules = useApi<Rules>('rules');
  return (
    <>
      <h1>Rules</h1>
      <Load from={rules}>
        {({ groups }) =>
          groups.length ? groups.map((g) => (
            <details class="pool" open key={g.file + g.name}>
              <summary><b>{g.name}</b> <span class="muted">{g.file}</span></summary>
              <Facts rows={g.rules.map((r) => [r.name, <code key="q">{r.query}</code>])} />
            </details>
          )) : <p class="muted">No rule groups.</p>
        }
      </Load>
    </>
  );
}

export function AlertsPage() {
  const alerts = useApi<{ alerts: { labels: Record<string, string>; state: string; value: string }[] }>('alerts');
  return (
    <>
      <h1>Alerts</h1>
      <Load from={alerts}>
        {({ alerts }) =>
          alerts.length ? <Facts rows={alerts.map((a) => [a.state, <LabelChips key="l" labels={a.labels} />])} /> : <p class="muted">No active alerts.</p>
        }
      </Load>
    </>
  );
}
