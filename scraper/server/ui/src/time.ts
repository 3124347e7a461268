// Durations and times as people type them.

const units: Record<string, number> = { ms: 1, s: 1e3, m: 6e4, h: 36e5, d: 864e5, w: 6048e5, y: 31536e6 };

/** Milliseconds of `1h30m`; undefined where the text is none. */
export function parseDuration(text: string): number | undefined {
  if (!/^(\d+(ms|[smhdwy]))+$/.test(text)) return undefined;
  let total = 0;
  for (const [, count, unit] of text.matchAll(/(\d+)(ms|[smhdwy])/g)) total += Number(count) * units[unit!]!;
  return total > 0 ? total : undefined;
}

export function formatDuration(ms: number): string {
  let text = '';
  for (const unit of ['d', 'h', 'm', 's', 'ms']) {
    const n = Math.floor(ms / units[unit]!);
    if (n > 0) text += `${n}${unit}`;
    ms -= n * units[unit]!;
  }
  return text || '0s';
}

/** The clock that people read: UTC, or the browser's own zone. URLs are in UTC always. */
export type Zone = 'UTC' | 'local';
let zone: Zone = localStorage.getItem('narthex.zone') === 'local' ? 'local' : 'UTC';

export function setZone(next: Zone) {
  localStorage.setItem('narthex.zone', next);
  zone = next;
}

export function currentZone(): Zone {
  return zone;
}

/** `2026-01-31T23:59:59.000Z` of the clock that is shown (with local time the `Z` is wrong: cut it off). */
function shownIso(ms: number): string {
  return new Date(zone === 'local' ? ms - new Date(ms).getTimezoneOffset() * 6e4 : ms).toISOString();
}

/** A time of day with its date, on the clock that is shown. */
export function formatTime(ms: number): string {
  if (!(Math.abs(ms) < 8.64e15)) return 'none';
  return `${shownIso(ms).replace('T', ' ').slice(0, ms % 1000 ? 23 : 19)}${zone === 'UTC' ? ' UTC' : ''}`;
}

/** A tick of a time axis: the date at midnight, else the time of day. */
export function formatTick(seconds: number, increment: number): string {
  const iso = shownIso(seconds * 1000);
  if (increment >= 86400 || iso.slice(11, 19) === '00:00:00') return iso.slice(5, 10);
  return increment >= 60 ? iso.slice(11, 16) : iso.slice(11, 19);
}

/** A time as `<input type="datetime-local">` wants it, on the clock that is shown. */
export function toInput(ms: number): string {
  return shownIso(ms).slice(0, 19);
}

export function fromInput(text: string): number | undefined {
  const ms = Date.parse(zone === 'UTC' ? `${text}Z` : text);
  return Number.isNaN(ms) ? undefined : ms;
}

export function ago(iso: string): string {
  const ms = Date.now() - Date.parse(iso);
  if (Number.isNaN(ms) || iso.startsWith('0001')) return 'never';
  return ms < 1000 ? `${Math.max(0, Math.round(ms))}ms ago` : `${(ms / 1000).toFixed(1)}s ago`;
}
