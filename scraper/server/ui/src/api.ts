// How the pages ask the server's HTTP API.
import { base } from './base';
import { setServer } from './shell/server';
import type { TraceStep } from './types';

export interface Answer<T> {
  data: T;
  warnings: string[];
  infos: string[];
  /** Where it was asked for. */
  trace?: TraceStep;
  /** From asking to having read the answer. */
  millis: number;
}

/** A refusal by the server in its own words, or why there is no answer. */
export class ApiError extends Error {
  constructor(
    message: string,
    readonly type: string,
  ) {
    super(message);
  }
}

export type Params = Record<string, string | string[]>;

function encode(params: Params): string {
  const encoded = new URLSearchParams();
  for (const [name, values] of Object.entries(params)) for (const value of [values].flat()) encoded.append(name, value);
  return encoded.toString();
}

/** Asks `/api/v1/PATH`. Expressions can be longer than a URL may be, and orders must not be repeatable by a link: both are posted. */
export async function api<T>(path: string, params: Params = {}, signal?: AbortSignal): Promise<Answer<T>> {
  const started = performance.now();
  const post = /^(query|admin\/|parse_query|format_query)/.test(path);
  const encoded = encode(params);
  const url = `${base}/api/v1/${path}${post || !encoded ? '' : `?${encoded}`}`;
  let response: Response;
  try {
    response = await fetch(url, { method: post ? 'POST' : 'GET', body: post ? new URLSearchParams(encoded) : undefined, signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    setServer('gone');
    throw new ApiError('The server does not answer.', 'network');
  }
  const millis = () => performance.now() - started;
  if (response.status === 204) return { data: undefined as T, warnings: [], infos: [], millis: millis() };
  const stopping = response.status === 503 && response.headers.get('x-prometheus-stopping');
  if (stopping) {
    setServer(stopping === 'true' ? 'stopping' : 'starting');
    throw new ApiError('The server is not ready.', 'unavailable');
  }
  let reply;
  try {
    reply = await response.json();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(`The server answered ${response.status} ${response.statusText} without JSON.`, 'bad_response');
  }
  if (reply.status !== 'success') throw new ApiError(reply.error ?? response.statusText, reply.errorType ?? 'unknown');
  return { data: reply.data, warnings: reply.warnings ?? [], infos: reply.infos ?? [], trace: reply.trace, millis: millis() };
}
