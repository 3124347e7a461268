// The expressions that were run in this browser, newest first.
import { settings } from '../settings';
import { readStored, writeStored } from '../store';

const KEY = 'narthex.history';
const MOST = 100;
const LONGEST = 10000;

export function readHistory(): string[] {
  const list = readStored(KEY);
  return Array.isArray(list) ? list.filter((e): e is string => typeof e === 'string') : [];
}

export function remember(expr: string) {
  const text = expr.trim();
  if (!settings.get().history || !text || text.length > LONGEST) return;
  writeStored(KEY, [text, ...readHistory().filter((e) => e !== text)].slice(0, MOST));
}

export function forgetAll() {
  writeStored(KEY, []);
}
