// Hooks that several pages share.
import { useCallback, useEffect, useState } from 'preact/hooks';
import { api } from './api';

export interface Loaded<T> {
  data?: T;
  error?: string;
  reload: () => void;
}

/** The answer of one GET, asked again by `reload`. */
export function useApi<T>(path: string, params: Record<string, string> = {}): Loaded<T> {
  const [state, setState] = useState<{ data?: T; error?: string }>({});
  const [turn, setTurn] = useState(0);
  const key = JSON.stringify(params);
  useEffect(() => {
    const abort = new AbortController();
    api<T>(path, JSON.parse(key), abort.signal)
      .then((answer) => setState({ data: answer.data }))
      .catch((error: Error) => error.name !== 'AbortError' && setState({ error: error.message }));
    return () => abort.abort();
  }, [path, key, turn]);
  return { ...state, reload: useCallback(() => setTurn((n) => n + 1), []) };
}

/** Component state that outlives the page. */
export function useStored(key: string, initial: string): [string, (value: string) => void] {
  const [value, setValue] = useState(() => localStorage.getItem(key) ?? initial);
  return [
    value,
    (next) => {
      localStorage.setItem(key, next);
      setValue(next);
    },
  ];
}
