// Hooks that several pages share.
import { useCallback, useEffect, useState } from 'preact/hooks';
import { type Params, api } from './api';
import { server } from './shell/server';

export interface Loaded<T> {
  data?: T;
  error?: string;
  busy: boolean;
  reload: () => void;
}

/** The answer of one request, asked again by `reload`, and when the server is back. What was shown stays until then. */
export function useApi<T>(path: string, params: Params = {}): Loaded<T> {
  const [state, setState] = useState<{ key?: string; data?: T; error?: string }>({});
  const [busy, setBusy] = useState(true);
  const [turn, setTurn] = useState(0);
  const { epoch } = server.use();
  const key = path + JSON.stringify(params);
  useEffect(() => {
    const abort = new AbortController();
    setBusy(true);
    api<T>(path, params, abort.signal)
      .then(({ data }) => setState({ key, data }))
      .catch((error: Error) => !abort.signal.aborted && setState((old) => ({ key, data: old.key === key ? old.data : undefined, error: error.message })))
      .finally(() => !abort.signal.aborted && setBusy(false));
    return () => abort.abort();
  }, [key, turn, epoch]);
  const shown = state.key === key ? state : {};
  return { data: shown.data, error: shown.error, busy, reload: useCallback(() => setTurn((n) => n + 1), []) };
}

/** The page's own part of the URL: reading and replacing single parameters. */
export function useUrlParams(): [URLSearchParams, (change: Record<string, string | string[]>) => void] {
  const [search, setSearch] = useState(location.search);
  const set = (change: Record<string, string | string[]>) => {
    const params = new URLSearchParams(location.search);
    for (const [name, values] of Object.entries(change)) {
      params.delete(name);
      for (const value of [values].flat()) if (value) params.append(name, value);
    }
    const next = params.size ? `?${params}` : '';
    history.replaceState(null, '', location.pathname + next);
    setSearch(next);
  };
  return [new URLSearchParams(search), set];
}
