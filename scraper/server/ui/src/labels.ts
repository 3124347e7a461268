// Metric and label names in expressions.
import type { Metric } from './types';

/** Whether a metric's name can stand in an expression without quotes. */
export function isPlainName(name: string): boolean {
  return /^[a-zA-Z_:][a-zA-Z0-9_:]*$/.test(name);
}

export function quote(value: string): string {
  return `"${value.replace(/\\/g, '\\\\').replace(/"/g, '\\"').replace(/\n/g, '\\n')}"`;
}

/** A label's name as expressions want it: quoted, where it has unusual characters. */
export function labelName(name: string): string {
  return /^[a-zA-Z_][a-zA-Z0-9_]*$/.test(name) ? name : quote(name);
}

/** `name{label="value", …}`, or `{"unusual name", …}`: a selector of exactly this series. */
export function formatMetric(metric: Metric): string {
  const name = metric.__name__ ?? '';
  const plain = !name || isPlainName(name);
  const labels = Object.entries(metric)
    .filter(([key]) => key !== '__name__')
    .map(([key, value]) => `${labelName(key)}=${quote(value)}`);
  if (!plain) labels.unshift(quote(name));
  return labels.length || !name ? `${plain ? name : ''}{${labels.join(', ')}}` : name;
}

/** A selector of everything with this name. */
export function selectorOf(name: string): string {
  return isPlainName(name) ? name : `{${quote(name)}}`;
}

/** Labels as text to be searched. */
export function labelsText(labels: Metric): string {
  return Object.entries(labels).map(([name, value]) => `${name}="${value}"`).join(' ');
}

/** Whether every word of `search` stands somewhere in `text`, in any case. */
export function matchesWords(text: string, search: string): boolean {
  const lower = text.toLowerCase();
  return search.toLowerCase().split(/\s+/).every((word) => lower.includes(word));
}
