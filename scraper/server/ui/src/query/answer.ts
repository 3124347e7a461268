// Asks what a panel shows, again whenever it changes; what was shown stays until the new answer is there.
import { useCallback, useEffect, useRef, useState } from 'preact/hooks';
import { type Answer, ApiError, type Params, api } from '../api';
import { server } from '../shell/server';
import type { ExemplarSeries, QueryResult, QueryStats, TraceStep } from '../types';
import type { Loaded } from '../use';
import { type PanelState, stepOf } from './state';
import { withoutRange } from './tree';

export interface Shown {
  tab: 'table' | 'graph';
  /** What was asked in place of the expression, where that cannot be drawn. */
  instead?: string;
  answer: Answer<QueryResult & { stats?: QueryStats }>;
  exemplars: ExemplarSeries[];
  /** Milliseconds since the epoch; of a table only `end` matters. */
  start: number;
  end: number;
  step: number;
}

export interface PanelAnswer {
  shown?: Shown;
  error?: string;
  /** When the question that is under way was asked. */
  since?: number;
  ask: () => void;
  cancel: () => void;
}

async function askTable(query: string, end: number, signal: AbortSignal): Promise<Shown> {
  const answer = await api<QueryResult>('query', { query, time: String(end / 1000), stats: 'all' }, signal);
  return { tab: 'table', answer, exemplars: [], start: end, end, step: 0 };
}

async function askGraph(query: string, state: PanelState, end: number, signal: AbortSignal): Promise<Shown> {
  const step = stepOf(state.resolution, state.range);
  const start = end - state.range;
  const instead = withoutRange(query);
  const window = { query: instead ?? query, start: String(start / 1000), end: String(end / 1000) };
  const [answer, exemplars] = await Promise.all([
    api<QueryResult>('query_range', { ...window, step: String(step / 1000), stats: 'all' }, signal),
    state.exemplars ? api<ExemplarSeries[] | null>('query_exemplars', window, signal).then(({ data }) => data ?? []) : [],
  ]);
  return { tab: 'graph', instead, answer, exemplars, start, end, step };
}

/** The answer for `expr`, which is the panel's expression or the part of it that is picked in the tree. */
export function useAnswer(state: PanelState, expr: string): PanelAnswer {
  const [shown, setShown] = useState<Shown>();
  const [error, setError] = useState<string>();
  const [since, setSince] = useState<number>();
  const [turn, setTurn] = useState(0);
  const { epoch } = server.use();
  const abort = useRef<AbortController | null>(null);

  useEffect(() => {
    if (!expr.trim() || state.tab === 'explain' || state.tab === 'trace') {
      setShown(undefined);
      setError(undefined);
      return;
    }
    const own = (abort.current = new AbortController());
    const end = state.end ?? Date.now();
    setSince(Date.now());
    (state.tab === 'graph' ? askGraph(expr, state, end, own.signal) : askTable(expr, end, own.signal))
      .then((next) => {
        setShown(next);
        setError(undefined);
      })
      .catch((e: Error) => {
        if (own.signal.aborted) return;
        // Without a server, an old answer is better than none.
        if (!(e instanceof ApiError && e.type === 'network')) setShown(undefined);
        setError(e.message);
      })
      .finally(() => own === abort.current && setSince(undefined));
    return () => own.abort();
  }, [expr, state.tab, state.range, state.end, JSON.stringify(state.resolution), state.exemplars, turn, epoch]);

  const cancel = useCallback(() => {
    abort.current?.abort();
    setShown(undefined);
    setError('Cancelled.');
  }, []);
  const current = shown?.tab === state.tab ? shown : undefined;
  return { shown: current, error, since, ask: useCallback(() => setTurn((n) => n + 1), []), cancel };
}

/** What the server did for `expr`, over the panel's range or at its end. */
export function useTrace(state: PanelState, expr: string, moment: boolean): Loaded<TraceStep> {
  const [loaded, setLoaded] = useState<{ data?: TraceStep; error?: string }>({});
  const [busy, setBusy] = useState(true);
  const [turn, setTurn] = useState(0);
  const { epoch } = server.use();
  useEffect(() => {
    if (!expr.trim()) return setLoaded({});
    const abort = new AbortController();
    const end = state.end ?? Date.now();
    const at: Params = moment
      ? { query: expr, time: String(end / 1000) }
      : { query: withoutRange(expr) ?? expr, start: String((end - state.range) / 1000), end: String(end / 1000), step: String(stepOf(state.resolution, state.range) / 1000) };
    setBusy(true);
    api<unknown>(moment ? 'query' : 'query_range', { ...at, trace: '1' }, abort.signal)
      .then(({ trace }) => setLoaded(trace ? { data: trace } : { error: 'The server sent no trace.' }))
      .catch((e: Error) => !abort.signal.aborted && setLoaded({ error: e.message }))
      .finally(() => !abort.signal.aborted && setBusy(false));
    return () => abort.abort();
  }, [expr, moment, state.range, state.end, JSON.stringify(state.resolution), turn, epoch]);
  return { ...loaded, busy, reload: useCallback(() => setTurn((n) => n + 1), []) };
}
