// What the store holds, which labels and metrics it spends itself on, and the orders to delete.
import { useState } from 'preact/hooks';
import { type Params, api } from '../api';
import { base } from '../base';
import { isPlainName, labelName, quote, selectorOf } from '../labels';
import { Card, Facts, Load, Notice, Page, Refresh } from '../parts/parts';
import { toUrl, withExpr } from '../query/state';
import { TimeInput } from '../query/time-input';
import { formatTime } from '../time';
import type { Features, Stat, Tsdb } from '../types';
import { useApi } from '../use';

export function TsdbPage() {
  const tsdb = useApi<Tsdb>('status/tsdb');
  return (
    <Page title="TSDB status" aside={<Refresh from={tsdb} />}>
      <Load from={tsdb}>
        {(s) => (
          <div class="cards">
            <Card title="Head">
              <Facts
                rows={[
                  ['Series', s.headStats.numSeries.toLocaleString('en')],
                  ['Chunks', s.headStats.chunkCount.toLocaleString('en')],
                  ['Label pairs', s.headStats.numLabelPairs.toLocaleString('en')],
                  ['Oldest sample', s.headStats.numSeries ? formatTime(s.headStats.minTime) : 'no samples yet'],
                  ['Newest sample', s.headStats.numSeries ? formatTime(s.headStats.maxTime) : 'no samples yet'],
                ]}
              />
            </Card>
            <Top title="Top 10 label names by values" unit="Values" stats={s.labelValueCountByLabelName} ask={(name) => `count by (${labelName(name)}) ({${labelName(name)}!=""})`} />
            <Top title="Top 10 metric names by series" unit="Series" stats={s.seriesCountByMetricName} ask={selectorOf} />
            <Top title="Top 10 label names by memory" unit="Bytes" stats={s.memoryInBytesByLabelName} ask={(name) => `count by (${labelName(name)}) ({${labelName(name)}!=""})`} />
            <Top title="Top 10 label pairs by series" unit="Series" stats={s.seriesCountByLabelValuePair} ask={pairSelector} />
          </div>
        )}
      </Load>
      <Delete />
    </Page>
  );
}

/** A selector of `name=value` as the server writes a pair: the value without quotes. */
function pairSelector(pair: string): string {
  const at = pair.indexOf('=');
  const name = pair.slice(0, at);
  const value = quote(pair.slice(at + 1));
  return name === '__name__' && isPlainName(pair.slice(at + 1)) ? pair.slice(at + 1) : `{${labelName(name)}=${value}}`;
}

function Top({ title, unit, stats, ask }: { title: string; unit: string; stats: Stat[] | null; ask: (name: string) => string }) {
  const rows = stats ?? [];
  const max = Math.max(1, ...rows.map((r) => r.value));
  return (
    <Card title={title}>
      <table class="list">
        <thead><tr><th>Name</th><th class="number">{unit}</th></tr></thead>
        <tbody>
          {rows.map(({ name, value }) => (
            <tr key={name}>
              <td class="metered"><span class="meter" style={{ width: `${(100 * value) / max}%` }} /><a href={`${base}/query${toUrl([withExpr(ask(name))])}`} title="Query these series"><code>{name}</code></a></td>
              <td class="number">{value.toLocaleString('en')}</td>
            </tr>
          ))}
          {!rows.length && <tr><td class="muted" colSpan={2}>Nothing yet.</td></tr>}
        </tbody>
      </table>
    </Card>
  );
}

/** Deletes by the admin API, which has to be enabled. */
function Delete() {
  const features = useApi<Features>('features');
  const [matchers, setMatchers] = useState('');
  const [start, setStart] = useState<number>();
  const [end, setEnd] = useState<number>();
  const [busy, setBusy] = useState(false);
  const [said, setSaid] = useState<{ kind: 'error' | 'good'; text: string }>();
  const enabled = features.data?.api?.admin ?? false;
  const selectors = matchers.split('\n').map((m) => m.trim()).filter(Boolean);

  const order = (path: string, params: Params, done: string) => {
    setBusy(true);
    return api<unknown>(`admin/tsdb/${path}`, params)
      .then(
        () => setSaid({ kind: 'good', text: done }),
        (e: Error) => setSaid({ kind: 'error', text: e.message }),
      )
      .finally(() => setBusy(false));
  };
  const remove = () => {
    const span = start === undefined && end === undefined ? 'all samples' : `the samples from ${start === undefined ? 'the beginning' : formatTime(start)} until ${end === undefined ? 'now' : formatTime(end)}`;
    if (!confirm(`Delete ${span} of\n${selectors.join('\n')}?`)) return;
    const params: Params = { 'match[]': selectors };
    if (start !== undefined) params.start = String(start / 1000);
    if (end !== undefined) params.end = String(end / 1000);
    void order('delete_series', params, `Deleted: ${span} of ${selectors.join(', ')}`);
  };
  return (
    <Card title="Delete series">
      {features.data && !enabled && <Notice kind="info">Deleting needs the admin API: start the server with <code>--web.enable-admin-api</code>.</Notice>}
      <form class="delete" onSubmit={(e) => { e.preventDefault(); remove(); }}>
        <label class="wide">Selectors, one per line
          <textarea required rows={2} disabled={!enabled} placeholder={'up{job="gone"}'} value={matchers} onInput={(e) => setMatchers(e.currentTarget.value)} />
        </label>
        <label>From (optional) <TimeInput name="From" value={start} none="the beginning" onChange={setStart} disabled={!enabled} /></label>
        <label>Until (optional) <TimeInput name="Until" value={end} none="now" onChange={setEnd} disabled={!enabled} /></label>
        <div class="wide bar">
          <button class="danger" disabled={!enabled || busy || !selectors.length}>Delete series</button>
          <button type="button" disabled={!enabled || busy} title="Frees the disk space of deleted samples now, not at the next compaction" onClick={() => order('clean_tombstones', {}, 'The space of deleted samples is free again.')}>Clean tombstones</button>
        </div>
      </form>
      {said && <Notice kind={said.kind}>{said.text}</Notice>}
    </Card>
  );
}
