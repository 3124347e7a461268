// The pages that only show what the server says of itself.
import { Facts, LabelChips, Load } from '../parts';
import { formatDuration } from '../time';
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
          </>
        )}
      </Load>
    </>
  );
}

function time(ms: number): string {
  return Math.abs(ms) < 8.64e15 && ms !== 0 ? new Date(ms).toISOString() : 'none';
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
              <td class="value">{r.value.toLocaleString('en')}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

interface Active {
  id?: number | string;
  query: string;
  startedAt?: string;
  seconds?: number;
}

export function ActiveQueriesPage() {
  const active = useApi<Active[]>('status/active_queries');
  return (
    <>
      <h1>Active queries</h1>
      <button onClick={active.reload}>Refresh</button>
      <Load from={active}>
        {(all) => {
          if (!all.length) return <p class="muted">No query is being evaluated.</p>;
          return (
            <table class="result">
              <tbody>
                {all.map((q, i) => (
                  <tr key={i}>
                    <td><code>{q.query}</code></td>
                    <td class="value">{q.seconds !== undefined ? formatDuration(Math.round(q.seconds * 1000)) : q.startedAt}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          );
        }}
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
