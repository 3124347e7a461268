// What people choose for themselves; the browser keeps it.
import { readStored, store, writeStored } from './store';

export interface Settings {
  theme: 'auto' | 'light' | 'dark';
  localTime: boolean;
  history: boolean;
  autocomplete: boolean;
  highlighting: boolean;
  linter: boolean;
  warnings: boolean;
  infos: boolean;
}

const KEY = 'narthex.settings';
const defaults: Settings = { theme: 'auto', localTime: false, history: true, autocomplete: true, highlighting: true, linter: true, warnings: true, infos: true };

export const settings = store<Settings>({ ...defaults, ...(readStored(KEY) as Partial<Settings> | undefined) });

export function changeSettings(change: Partial<Settings>) {
  const next = { ...settings.get(), ...change };
  writeStored(KEY, next);
  settings.set(next);
}
