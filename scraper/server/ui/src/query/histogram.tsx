// A native histogram as a bar chart, with its buckets as a table.
import { useState } from 'preact/hooks';
import type { Bucket, NativeHistogram } from '../types';

/** A bar in percent of the chart's width and height. */
interface Bar {
  left: number;
  width: number;
  height: number;
  bucket: Bucket;
}

type Scale = 'exponential' | 'linear';

export function bucketText([edges, low, high]: Bucket): string {
  return `${edges === 1 || edges === 3 ? '[' : '('}${low}, ${high}${edges === 0 || edges === 3 ? ']' : ')'}`;
}

/** How wide it is from `a` to `b`; undefined across zero on the exponential scale, and to infinity. */
function distance(a: number, b: number, scale: Scale): number | undefined {
  const width = scale === 'linear' ? b - a : a * b > 0 ? Math.abs(Math.log(b / a)) : undefined;
  return width !== undefined && Number.isFinite(width) ? width : undefined;
}

/**
 * Bars from left to right with the gaps between their buckets. A bucket whose width has no measure (the zero bucket of
 * an exponential scale, one that ends at infinity) is as wide as the narrowest other. On the linear scale a bar's area
 * stands for its count, on the exponential one its height.
 */
export function layOut(buckets: Bucket[], scale: Scale): Bar[] {
  const edges = buckets.map(([, low, high]) => [Number(low.replace('Inf', 'Infinity')), Number(high.replace('Inf', 'Infinity'))] as const);
  const measured = edges.map(([low, high]) => distance(low, high, scale));
  const usual = Math.min(...measured.filter((w): w is number => w !== undefined && w > 0));
  const widths = measured.map((w) => w ?? (Number.isFinite(usual) ? usual : 1));
  const gaps = edges.map(([low], i) => (i ? (distance(edges[i - 1]![1], low, scale) ?? 0) : 0));
  const total = [...widths, ...gaps].reduce((sum, w) => sum + w, 0) || 1;
  const heights = buckets.map(([, , , count], i) => (scale === 'linear' ? (widths[i] ? Number(count) / widths[i] : 0) : Number(count)));
  const top = Math.max(...heights, Number.MIN_VALUE);
  let at = 0;
  return buckets.map((bucket, i) => {
    at += gaps[i]!;
    const bar = { left: (100 * at) / total, width: (100 * widths[i]!) / total, height: (100 * heights[i]!) / top, bucket };
    at += widths[i]!;
    return bar;
  });
}

/** Some edges of bars to write below the chart, far enough from each other to be read. */
function ticksOf(bars: Bar[]): { at: number; text: string }[] {
  const all = [...bars.map((b) => ({ at: b.left, text: b.bucket[1] })), ...bars.slice(-1).map((b) => ({ at: b.left + b.width, text: b.bucket[2] }))];
  const last = all.at(-1)!;
  const kept: typeof all = [];
  for (const tick of all) if (tick === last || (tick.at - (kept.at(-1)?.at ?? -100) >= 22 && last.at - tick.at >= 22)) kept.push(tick);
  return kept;
}

function short(edge: string): string {
  const value = Number(edge);
  return Number.isFinite(value) ? String(Number(value.toPrecision(3))) : edge;
}

export function Histogram({ h }: { h: NativeHistogram }) {
  const [scale, setScale] = useState<Scale>('exponential');
  const buckets = h.buckets ?? [];
  const bars = layOut(buckets, scale);
  return (
    <div class="histogram">
      <div class="histogram-head">
        <span>Count: {h.count}</span><span>Sum: {h.sum}</span>
        {buckets.length > 1 && (
          <select aria-label="Scale of the chart" value={scale} onChange={(e) => setScale(e.currentTarget.value as Scale)}>
            <option value="exponential">exponential</option>
            <option value="linear">linear</option>
          </select>
        )}
      </div>
      {buckets.length > 0 && (
        <>
          <div class="bars" role="img" aria-label={`${buckets.length} buckets from ${buckets[0]![1]} to ${buckets.at(-1)![2]}`}>
            {bars.map(({ left, width, height, bucket }, i) => (
              <span key={i} class="bar-slot" style={{ left: `${left}%`, width: `${width}%` }} title={`${bucketText(bucket)}: ${bucket[3]}`}>
                <span style={{ height: `${height}%` }} />
              </span>
            ))}
          </div>
          <div class="ticks" aria-hidden="true">{ticksOf(bars).map(({ at, text }) => <span key={at} style={{ left: `${at}%` }}>{short(text)}</span>)}</div>
          <details class="buckets">
            <summary>{buckets.length} {buckets.length === 1 ? 'bucket' : 'buckets'}</summary>
            <table><thead><tr><th>Range</th><th>Count</th></tr></thead><tbody>{buckets.map((b, i) => <tr key={i}><td>{bucketText(b)}</td><td>{b[3]}</td></tr>)}</tbody></table>
          </details>
        </>
      )}
    </div>
  );
}
