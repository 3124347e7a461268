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

/** A time as `<input type="datetime-local">` wants it, in UTC. */
export function toInput(ms: number): string {
  return new Date(ms).toISOString().slice(0, 19);
}

export function fromInput(text: string): number | undefined {
  const ms = Date.parse(`${text}Z`);
  return Number.isNaN(ms) ? undefined : ms;
}

export function ago(iso: string): string {
  const ms = Date.now() - Date.parse(iso);
  if (Number.isNaN(ms) || iso.startsWith('0001')) return 'never';
  return ms < 1000 ? `${Math.max(0, Math.round(ms))}ms ago` : `${(ms / 1000).toFixed(1)}s ago`;
}
