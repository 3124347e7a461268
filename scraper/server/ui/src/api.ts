// The server's HTTP API, typed as far as the pages use it.

export type Metric = Record<string, string>;
export type Point = [number, string];

export interface NativeHistogram {
  count: string;
  sum: string;
  buckets?: [number, string, string, string][];
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

export interface ExemplarSeries {
  seriesLabels: Metric;
  exemplars: { labels: Metric; value: string; timestamp: number }[];
}

/** What a query cost, as the server says with `stats=all`. */
export interface Stats {
  timings?: Record<string, number>;
  samples?: { totalQueryableSamples?: number; peakSamples?: number };
}

export interface Answer<T> {
  data: T;
  warnings: string[];
  infos: string[];
  millis: number;
}

/** A refusal by the server, in its own words. */
export class ApiError extends Error {
  constructor(
    message: string,
    readonly type: string,
  ) {
    super(message);
  }
}

/** Where the server's paths begin: all of it may live below a prefix (--web.route-prefix). */
export const base = new URL(document.baseURI).pathname.replace(/\/$/, '');

export async function api<T>(path: string, params: Record<string, string> = {}, signal?: AbortSignal): Promise<Answer<T>> {
  const started = performance.now();
  const body = new URLSearchParams(params);
  const post = path.startsWith('query') || path.startsWith('admin/');
  const query = body.toString();
  const url = `${base}/api/v1/${path}${post || !query ? '' : `?${query}`}`;
  const response = await fetch(url, { method: post ? 'POST' : 'GET', body: post ? body : undefined, signal });
  if (response.status === 204) return { data: undefined as T, warnings: [], infos: [], millis: performance.now() - started };
  let reply;
  try {
    reply = await response.json();
  } catch {
    throw new ApiError(`the server answered ${response.status} ${response.statusText} without JSON`, 'bad_response');
  }
  if (reply.status !== 'success') throw new ApiError(reply.error ?? response.statusText, reply.errorType ?? 'unknown');
  return {
    data: reply.data,
    warnings: reply.warnings ?? [],
    infos: reply.infos ?? [],
    millis: performance.now() - started,
  };
}

/** `name{label="value", …}` as Prometheus prints it. */
export function formatMetric(metric: Metric): string {
  const name = metric.__name__ ?? '';
  const labels = Object.entries(metric)
    .filter(([key]) => key !== '__name__')
    .map(([key, value]) => `${key}=${JSON.stringify(value)}`);
  return labels.length || !name ? `${name}{${labels.join(', ')}}` : name;
}
