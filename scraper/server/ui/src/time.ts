// Durations and times as people type and read them.
import { settings } from './settings';

const units: Record<string, number> = { ms: 1, s: 1e3, m: 6e4, h: 36e5, d: 864e5, w: 6048e5, y: 31536e6 };

/** Milliseconds of `1h30m`; undefined where the text is none, or zero. */
export function parseDuration(text: string): number | undefined {
  if (!/^(\d+(ms|[smhdwy]))+$/.test(text)) return undefined;
  let total = 0;
  for (const [, count, unit] of text.matchAll(/(\d+)(ms|[smhdwy])/g)) total += Number(count) * units[unit!]!;
  return total > 0 ? total : undefined;
}

/** `1d12h` of milliseconds; years and weeks only where nothing remains, as Prometheus writes it. */
export function formatDuration(ms: number): string {
  for (const unit of ['y', 'w']) if (ms > 0 && ms % units[unit]! === 0) return `${ms / units[unit]!}${unit}`;
  let text = '';
  for (const unit of ['d', 'h', 'm', 's', 'ms']) {
    const n = Math.floor(ms / units[unit]!);
    if (n > 0) text += `${n}${unit}`;
    ms -= n * units[unit]!;
  }
  return text || '0s';
}

/** A span for reading, with as many digits as matter: `320ms`, `4.1s`, `2m 5s`. */
export function humanSpan(ms: number): string {
  if (ms < 1) return `${ms.toFixed(2)}ms`;
  if (ms < 1000) return `${ms.toFixed(ms < 10 ? 1 : 0)}ms`;
  if (ms < 6e4) return `${(ms / 1000).toFixed(1)}s`;
  return formatDuration(Math.round(ms / 1000) * 1000).replace(/([a-z])(?=\d)/g, '$1 ');
}

/** Minutes that the clock shown is ahead of UTC at that time. */
function ahead(ms: number): number {
  return settings.get().localTime ? -new Date(ms).getTimezoneOffset() : 0;
}

/** `2026-01-31T23:59:59.000Z` of the clock that is shown (with local time the `Z` is wrong: cut it off). */
function shownIso(ms: number): string {
  return new Date(ms + ahead(ms) * 6e4).toISOString();
}

function zone(ms: number): string {
  if (!settings.get().localTime) return 'UTC';
  const minutes = Math.abs(ahead(ms));
  const two = (n: number) => String(n).padStart(2, '0');
  return `${ahead(ms) < 0 ? '-' : '+'}${two(Math.floor(minutes / 60))}:${two(minutes % 60)}`;
}

const inRange = (ms: number) => Math.abs(ms) < 8.64e15;

/** A time with its date, on the clock that is shown and named. */
export function formatTime(ms: number): string {
  if (!inRange(ms)) return 'none';
  return `${shownIso(ms).replace('T', ' ').slice(0, ms % 1000 ? 23 : 19)} ${zone(ms)}`;
}

/** A tick of a time axis: the date at midnight, else the time of day. */
export function formatTick(seconds: number, increment: number): string {
  const iso = shownIso(seconds * 1000);
  if (increment >= 86400 || iso.slice(11, 19) === '00:00:00') return iso.slice(5, 10);
  if (increment >= 60) return iso.slice(11, 16);
  return increment >= 1 ? iso.slice(11, 19) : iso.slice(14, 23);
}

/** `2026-01-31 23:59:59`, as it is typed into a field, on the clock that is shown. */
export function toInput(ms: number): string {
  return inRange(ms) ? shownIso(ms).slice(0, 19).replace('T', ' ') : '';
}

/** Reads what `toInput` writes, also without seconds or time of day, and seconds since the epoch. */
export function fromInput(text: string): number | undefined {
  if (/^\d{9,11}(\.\d+)?$/.test(text)) return Math.round(Number(text) * 1000);
  const parts = /^(\d{4})-(\d\d?)-(\d\d?)(?:[T ](\d\d?):(\d\d)(?::(\d\d))?)?$/.exec(text.trim());
  if (!parts) return undefined;
  const [year, month, day, hour, minute, second] = parts.slice(1).map((part) => Number(part ?? 0)) as [number, number, number, number, number, number];
  const ms = settings.get().localTime ? new Date(year, month - 1, day, hour, minute, second).getTime() : Date.UTC(year, month - 1, day, hour, minute, second);
  return Number.isNaN(ms) ? undefined : ms;
}

export function ago(iso: string): string {
  const ms = Date.now() - Date.parse(iso);
  return Number.isNaN(ms) || iso.startsWith('0001') ? 'never' : `${humanSpan(Math.max(0, ms))} ago`;
}
