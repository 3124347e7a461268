// Values outside of components that components can watch.
import { useEffect, useState } from 'preact/hooks';

export interface Store<T> {
  get: () => T;
  set: (value: T) => void;
  /** The value in a component, which is drawn again when it changes. */
  use: () => T;
}

export function store<T>(initial: T): Store<T> {
  let value = initial;
  const listeners = new Set<(value: T) => void>();
  return {
    get: () => value,
    set(next) {
      value = next;
      listeners.forEach((listener) => listener(next));
    },
    use() {
      const [shown, setShown] = useState(value);
      useEffect(() => {
        const listener = () => setShown(value);
        listener();
        listeners.add(listener);
        return () => void listeners.delete(listener);
      }, []);
      return shown;
    },
  };
}

/** What the browser keeps under `key`; `undefined` where it keeps nothing, or is not allowed to. */
export function readStored(key: string): unknown {
  try {
    return JSON.parse(localStorage.getItem(key) ?? 'null') ?? undefined;
  } catch {
    return undefined;
  }
}

export function writeStored(key: string, value: unknown) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
  } catch {
    // Private windows and full disks: the choice then lasts as long as the page.
  }
}
