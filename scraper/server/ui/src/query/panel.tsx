// One expression with its result as table, graph or tree.
import { useEffect, useRef, useState } from 'preact/hooks';
import { type Answer, type ExemplarSeries, type MatrixResult, type QueryResult, type Stats, api } from '../api';
import { Notice } from '../parts';
import { currentZone, formatDuration, fromInput, parseDuration, toInput } from '../time';
import { Editor } from './editor';
import { Explain } from './explain';
import { Explorer } from './explorer';
import { Graph } from './graph';
import { forgetAll, readHistory, remember } from './history';
import { type PanelState, autoStep } from './state';
import { Table } from './table';

interface Shown {
  answer: Answer<QueryResult & { stats?: Stats }>;
  exemplars: ExemplarSeries[];
  start: number;
  end: number;
  step: number;
}

const RANGES = ['1m', '5m', '15m', '30m', '1h', '2h', '6h', '12h', '1d', '2d', '1w', '2w', '4w', '8w', '1y', '2y'];

export function Panel({ state, onChange, onRemove }: { state: PanelState; onChange: (s: PanelState) => void; onRemove?: () => void }) {
  const [draft, setDraft] = useState(state.expr);
  const [revision, setRevision] = useState(0);
  const [shown, setShown] = useState<Shown>();
  const [error, setError] = useState<string>();
  const [busy, setBusy] = useState(false);
  const [exploring, setExploring] = useState(false);
  const [turn, setTurn] = useState(0);
  const abort = useRef<AbortController | null>(null);

  const replace = (expr: string) => {
    setDraft(expr);
    setRevision((n) => n + 1);
  };
  const run = (expr = draft) => {
    remember(expr);
    setTurn((n) => n + 1);
    onChange({ ...state, expr });
  };

  useEffect(() => {
    abort.current?.abort();
    if (!state.expr.trim() || state.tab === 'explain') {
      setShown(undefined);
      setError(undefined);
      return;
    }
    const own = (abort.current = new AbortController());
    const end = state.end ?? Date.now();
    const step = state.step ?? autoStep(state.range);
    const start = end - state.range;
    setBusy(true);
    const query = { query: state.expr, stats: 'all' };
    const window = { start: String(start / 1000), end: String(end / 1000) };
    const ask =
      state.tab === 'graph'
        ? api<QueryResult>('query_range', { ...query, ...window, step: String(step / 1000) }, own.signal)
        : api<QueryResult>('query', { ...query, time: String(end / 1000) }, own.signal);
    const exemplars =
      state.tab === 'graph' && state.exemplars
        ? api<ExemplarSeries[]>('query_exemplars', { query: state.expr, ...window }, own.signal).then((answer) => answer.data ?? [])
        : Promise.resolve([]);
    Promise.all([ask, exemplars])
      .then(([answer, exemplars]) => {
        setShown({ answer, exemplars, start, end, step });
        setError(undefined);
      })
      .catch((e: Error) => {
        if (own.signal.aborted) return;
        setShown(undefined);
        setError(e.message);
      })
      .finally(() => own === abort.current && setBusy(false));
    return () => own.abort();
  }, [state.expr, state.tab, state.range, state.end, state.step, state.exemplars, turn]);

  const set = (change: Partial<PanelState>) => onChange({ ...state, ...change });
  const result = shown?.answer.data;
  return (
    <section class="panel" aria-label="Query panel">
      <div class="bar">
        <Editor value={draft} revision={revision} onChange={setDraft} onRun={() => run()} />
        <button class="primary" onClick={() => run()} aria-busy={busy}>Execute</button>
        <button onClick={() => setExploring(true)} title="Browse metrics">Metrics</button>
        <button title="Format the expression" onClick={() => api<string>('format_query', { query: draft }).then((a) => replace(a.data)).catch((e: Error) => setError(e.message))}>Format</button>
        <History onPick={(expr) => { replace(expr); run(expr); }} />
        {onRemove && <button onClick={onRemove} title="Remove this panel" aria-label="Remove this panel">×</button>}
      </div>
      {exploring && <Explorer onClose={() => setExploring(false)} onPick={(name) => { setExploring(false); replace(name); run(name); }} />}
      <nav class="tabs" role="tablist">
        {(['table', 'graph', 'explain'] as const).map((tab) => (
          <button key={tab} role="tab" aria-selected={state.tab === tab} onClick={() => set({ tab })}>{tab[0]!.toUpperCase() + tab.slice(1)}</button>
        ))}
        <span class="grow" />
        {state.tab === 'graph' && (
          <>
            <label>Range <input list="ranges" size={5} key={state.range} defaultValue={formatDuration(state.range)} onChange={(e) => { const range = parseDuration(e.currentTarget.value); range ? set({ range }) : (e.currentTarget.value = formatDuration(state.range)); }} /></label>
            <label>Step <input size={5} placeholder={`${autoStep(state.range) / 1000}s`} key={state.step} defaultValue={state.step ? String(state.step / 1000) : ''} onChange={(e) => { const text = e.currentTarget.value; const step = parseDuration(text) ?? Number(text) * 1000; set({ step: step > 0 ? step : undefined }); }} /></label>
            <label><input type="checkbox" checked={state.stacked} onChange={(e) => set({ stacked: e.currentTarget.checked })} /> Stacked</label>
            <label><input type="checkbox" checked={state.exemplars} onChange={(e) => set({ exemplars: e.currentTarget.checked })} /> Exemplars</label>
          </>
        )}
        <span class="moment">
          {state.tab === 'graph' && <button class="small" aria-label="Earlier" title="Earlier by half the range" onClick={() => set({ end: (state.end ?? Date.now()) - state.range / 2 })}>‹</button>}
          <label>{state.tab === 'graph' ? 'End' : 'Time'} ({currentZone()}) <input type="datetime-local" step={1} value={state.end === undefined ? '' : toInput(state.end)} onChange={(e) => set({ end: fromInput(e.currentTarget.value) })} /></label>
          {state.tab === 'graph' && <button class="small" aria-label="Later" title="Later by half the range" disabled={state.end === undefined} onClick={() => { const end = state.end! + state.range / 2; set({ end: end >= Date.now() ? undefined : end }); }}>›</button>}
          {state.end !== undefined && <button class="small" onClick={() => set({ end: undefined })}>now</button>}
        </span>
      </nav>
      <datalist id="ranges">{RANGES.map((r) => <option key={r} value={r} />)}</datalist>
      {error && <Notice kind="error">{error}</Notice>}
      {shown?.answer.warnings.map((w) => <Notice key={w} kind="warning">{w}</Notice>)}
      {shown?.answer.infos.map((w) => <Notice key={w} kind="info">{w}</Notice>)}
      {state.tab === 'explain' && state.expr && <Explain expr={state.expr} time={state.end} />}
      {state.tab === 'table' && result && <Table result={result} />}
      {state.tab === 'graph' && result?.resultType === 'matrix' && shown && (
        result.result.length ? (
          <Graph result={result as MatrixResult} start={shown.start} end={shown.end} step={shown.step} stacked={state.stacked} exemplars={shown.exemplars}
            onZoom={(from, to) => set({ end: Math.round(to), range: Math.max(1000, Math.round((to - from) / 1000) * 1000) })} />
        ) : <p class="muted">Empty result</p>
      )}
      {shown && <Cost shown={shown} graph={state.tab === 'graph'} />}
      {!state.expr && !error && <p class="muted">Type an expression, or pick one under Metrics.</p>}
    </section>
  );
}

/** What the answer holds and what it cost; opened, the server's own account of it. */
function Cost({ shown: { answer, step }, graph }: { shown: Shown; graph: boolean }) {
  const { resultType, result, stats } = answer.data;
  const facts = [
    resultType === 'vector' || resultType === 'matrix' ? `${result.length} series` : '',
    `${Math.round(answer.millis)} ms`,
    graph ? `step ${step / 1000}s` : '',
    stats?.samples?.totalQueryableSamples !== undefined ? `${stats.samples.totalQueryableSamples.toLocaleString('en')} samples` : '',
  ];
  return (
    <details class="muted small cost">
      <summary>{facts.filter(Boolean).join(', ')}</summary>
      {stats?.samples && <p>at most {stats.samples.peakSamples?.toLocaleString('en')} samples at once</p>}
      {stats?.timings && (
        <table class="facts"><tbody>
          {Object.entries(stats.timings).map(([name, seconds]) => <tr key={name}><th scope="row">{name}</th><td>{(seconds * 1000).toFixed(3)} ms</td></tr>)}
        </tbody></table>
      )}
    </details>
  );
}

function History({ onPick }: { onPick: (expr: string) => void }) {
  const [open, setOpen] = useState(false);
  const list = open ? readHistory() : [];
  return (
    <details class="menu history" open={open} onToggle={(e) => setOpen(e.currentTarget.open)} onKeyDown={(e) => e.key === 'Escape' && setOpen(false)}>
      <summary>History</summary>
      <div>
        {list.length === 0 && <p class="muted">Nothing was run in this browser yet.</p>}
        {list.map((expr) => <button key={expr} class="link" onClick={() => { setOpen(false); onPick(expr); }}><code>{expr}</code></button>)}
        {list.length > 0 && <button class="small" onClick={() => { forgetAll(); setOpen(false); }}>Forget all</button>}
      </div>
    </details>
  );
}
