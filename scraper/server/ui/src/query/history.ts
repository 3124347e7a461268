// The expressions that were run in this browser, newest first.
const KEY = 'narthex.history';
const MOST = 100;

export function readHistory(): string[] {
  try {
    const list: unknown = JSON.parse(localStorage.getItem(KEY) ?? '[]');
    return Array.isArray(list) ? list.filter((e): e is string => typeof e === 'string') : [];
  } catch {
    return [];
  }
}

export function remember(expr: string) {
  const text = expr.trim();
  if (!text || text.length > 10000) return;
  localStorage.setItem(KEY, JSON.stringify([text, ...readHistory().filter((e) => e !== text)].slice(0, MOST)));
}

export function forgetAll() {
  localStorage.removeItem(KEY);
}
