// Small pieces that pages are made of.
import type { ComponentChildren } from 'preact';
import type { Loaded } from './use';
import type { Metric } from './api';

export function Notice({ kind, children }: { kind: 'error' | 'warning' | 'info'; children: ComponentChildren }) {
  return <div class={`notice ${kind}`} role={kind === 'error' ? 'alert' : 'status'}>{children}</div>;
}

/** Shows what was loaded, or why not, or that it is under way. */
export function Load<T>({ from, children }: { from: Loaded<T>; children: (data: T) => ComponentChildren }) {
  if (from.error) return <Notice kind="error">{from.error}</Notice>;
  if (from.data === undefined) return <p class="muted" aria-busy="true">Loading…</p>;
  return <>{children(from.data)}</>;
}

export function MetricText({ metric }: { metric: Metric }) {
  const labels = Object.entries(metric).filter(([name]) => name !== '__name__');
  return (
    <span class="metric">
      <b>{metric.__name__}</b>
      {(labels.length > 0 || !metric.__name__) && '{'}
      {labels.map(([name, value], i) => (
        <span key={name}>
          {i > 0 && ', '}
          <i>{name}</i>=<q>{value}</q>
        </span>
      ))}
      {(labels.length > 0 || !metric.__name__) && '}'}
    </span>
  );
}

export function LabelChips({ labels }: { labels: Metric }) {
  return (
    <span class="chips">
      {Object.entries(labels).map(([name, value]) => (
        <span class="chip" key={name}>{name}=<q>{value}</q></span>
      ))}
    </span>
  );
}

export function Facts({ rows }: { rows: [string, ComponentChildren][] }) {
  return (
    <table class="facts">
      <tbody>
        {rows.map(([name, value]) => (
          <tr key={name}><th scope="row">{name}</th><td>{value}</td></tr>
        ))}
      </tbody>
    </table>
  );
}
