// What the server's endpoints answer (the `data` of an answer), as far as the pages read it.

export type Metric = Record<string, string>;
/** Seconds since the epoch, and the value as text: `NaN` and `+Inf` are no JSON numbers. */
export type Point = [number, string];

/** Which of the edges belong to it, lower edge, upper edge, count. */
export type Bucket = [0 | 1 | 2 | 3, string, string, string];

export interface NativeHistogram {
  count: string;
  sum: string;
  buckets?: Bucket[];
}

export interface VectorResult {
  resultType: 'vector';
  result: { metric: Metric; value?: Point; histogram?: [number, NativeHistogram] }[];
}
export interface MatrixResult {
  resultType: 'matrix';
  result: { metric: Metric; values?: Point[]; histograms?: [number, NativeHistogram][] }[];
}
export interface ScalarResult {
  resultType: 'scalar' | 'string';
  result: Point;
}
export type QueryResult = VectorResult | MatrixResult | ScalarResult;

export function isScalar(result: QueryResult): result is ScalarResult {
  return result.resultType === 'scalar' || result.resultType === 'string';
}

/** What a query cost, as the server says with `stats=all`. */
export interface QueryStats {
  timings?: Record<string, number>;
  samples?: { totalQueryableSamples?: number; peakSamples?: number };
}

/** A step of a query, with `trace=1`. */
export interface TraceStep {
  duration_msec: number;
  message: string;
  children?: TraceStep[];
}

export interface ExemplarSeries {
  seriesLabels: Metric;
  exemplars: { labels: Metric; value: string; timestamp: number }[];
}

/** `/metadata`: by metric name. */
export type Metadata = Record<string, { type: string; help: string; unit: string }[]>;

export interface Matcher {
  name: string;
  type: '=' | '!=' | '=~' | '!~';
  value: string;
}

interface SelectorNode {
  name: string;
  matchers: Matcher[];
  offset: number;
  timestamp: number | null;
  startOrEnd: 'start' | 'end' | null;
}

export interface Matching {
  card: 'one-to-one' | 'many-to-one' | 'one-to-many' | 'many-to-many';
  labels: string[];
  on: boolean;
  include: string[];
}

/** `/parse_query`: the outermost node; what lies below is asked for by its own text. */
export type Node =
  | ({ type: 'vectorSelector' } & SelectorNode)
  | ({ type: 'matrixSelector'; range: number } & SelectorNode)
  | { type: 'subquery'; range: number; step: number; offset: number; timestamp: number | null; startOrEnd: 'start' | 'end' | null }
  | { type: 'aggregation'; op: string; grouping: string[]; without: boolean }
  | { type: 'binaryExpr'; op: string; bool: boolean; matching: Matching | null }
  | { type: 'call'; func: { name: string; argTypes: string[]; returnType: string } }
  | { type: 'unaryExpr'; op: string }
  | { type: 'numberLiteral' | 'stringLiteral'; val: string }
  | { type: 'parenExpr' | 'placeholder' };

export type Health = 'up' | 'down' | 'unknown';

export interface Target {
  discoveredLabels: Metric;
  labels: Metric;
  scrapePool: string;
  scrapeUrl: string;
  globalUrl: string;
  lastError: string;
  lastScrape: string;
  /** Seconds. */
  lastScrapeDuration: number;
  health: Health;
  scrapeInterval: string;
  scrapeTimeout: string;
  /** The shard that scrapes it, where there are several. */
  shard?: string;
}

export interface Targets {
  activeTargets: Target[];
  droppedTargets: { discoveredLabels: Metric; scrapePool?: string }[];
  droppedTargetCounts: Record<string, number>;
}

export interface RelabelStep {
  rule: Record<string, unknown>;
  output: Metric;
  keep: boolean;
}

export interface Alertmanagers {
  activeAlertmanagers: { url: string }[];
  droppedAlertmanagers: { url: string }[];
}

export interface Stat {
  name: string;
  value: number;
}

export interface Tsdb {
  headStats: { numSeries: number; numLabelPairs: number; chunkCount: number; minTime: number; maxTime: number };
  seriesCountByMetricName: Stat[] | null;
  labelValueCountByLabelName: Stat[] | null;
  memoryInBytesByLabelName: Stat[] | null;
  seriesCountByLabelValuePair: Stat[] | null;
}

export interface ActiveQuery {
  id: number;
  query: string;
  client: string;
  path: string;
  class: string;
  /** Else it waits for a slot. */
  running: boolean;
  seconds: number;
}

/** What a query took of late, put together by text and span of time. */
export interface TopQuery {
  query: string;
  timeRangeSeconds: number;
  count: number;
  sumDurationSeconds: number;
  avgDurationSeconds: number;
  maxDurationSeconds: number;
  samples: number;
  maxMemoryBytes: number;
  errors: number;
  lastError?: string;
  /** Seconds since the epoch. */
  lastTime: number;
  class: string;
  client: string;
}

export type TopQueries = Record<'topByCount' | 'topByAvgDuration' | 'topBySumDuration' | 'topByAvgMemoryUsage', TopQuery[]> & { 'search.queryStats.lastQueriesCount': number };

/** `/features`: by area, which of them are on. */
export type Features = Record<string, Record<string, boolean>>;

export interface WalReplay {
  min: number;
  max: number;
  current: number;
}

export interface RuleGroups {
  groups: { name: string; file: string; rules: { name: string; query: string; type: string }[] }[];
}

export interface Alerts {
  alerts: { labels: Metric; state: string; value: string }[];
}

/** What the server wants whoever looks at a page to know; `active: false` takes it back. */
export interface Note {
  text: string;
  date: string;
  active: boolean;
}
