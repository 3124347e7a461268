// A range query as lines (or stacked areas) by uPlot, with a legend that shows, hides and singles out series.
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';
import { type MatrixResult, formatMetric } from '../api';
import { MetricText } from '../parts';

interface Props {
  result: MatrixResult;
  start: number;
  end: number;
  step: number;
  stacked: boolean;
  onZoom: (start: number, end: number) => void;
}

const MAX_SERIES = 500;

function colour(i: number): string {
  return `hsl(${(i * 137.508) % 360} 62% ${i % 2 ? 42 : 55}%)`;
}

/** Columns on the common grid start, start+step, …; null where a series has no point. */
function columns({ result, start, end, step }: Props): uPlot.AlignedData {
  const count = Math.floor((end - start) / step) + 1;
  const times = Array.from({ length: count }, (_, i) => (start + i * step) / 1000);
  const series = result.result.slice(0, MAX_SERIES).map(({ values, histograms }) => {
    const column = new Array<number | null>(count).fill(null);
    const points = values ?? histograms?.map(([t, h]): [number, string] => [t, h.sum]) ?? [];
    for (const [t, v] of points) {
      const value = Number(v.replace('Inf', 'Infinity'));
      const i = Math.round((t * 1000 - start) / step);
      if (i >= 0 && i < count && Number.isFinite(value)) column[i] = value;
    }
    return column;
  });
  return [times, ...series];
}

function stack(data: uPlot.AlignedData, shown: boolean[]): uPlot.AlignedData {
  const sums = new Array<number>(data[0].length).fill(0);
  return data.map((column, s) =>
    s === 0 || !shown[s - 1] ? column : (column as (number | null)[]).map((v, i) => (v === null ? null : (sums[i]! += v))),
  ) as uPlot.AlignedData;
}

export function Graph(props: Props) {
  const { result, stacked, onZoom } = props;
  const host = useRef<HTMLDivElement>(null);
  const [shown, setShown] = useState<boolean[]>([]);
  const data = useMemo(() => columns(props), [result]);
  const visible = result.result.slice(0, MAX_SERIES).map((_, i) => shown[i] ?? true);

  useEffect(() => setShown([]), [result]);
  useEffect(() => {
    const element = host.current!;
    // The canvas needs colours that are already resolved for the scheme in force.
    const { color, borderTopColor } = getComputedStyle(element);
    const lines = { stroke: borderTopColor, width: 1 };
    const axis = { stroke: color, grid: lines, ticks: lines };
    const plot = new uPlot(
      {
        width: element.clientWidth,
        height: Math.max(220, Math.min(420, innerHeight * 0.5)),
        legend: { show: false },
        tzDate: (ts) => uPlot.tzDate(new Date(ts * 1000), 'UTC'),
        cursor: { drag: { x: true, y: false }, focus: { prox: 30 } },
        focus: { alpha: 0.25 },
        scales: { x: { time: true } },
        axes: [{ ...axis, values: (_, ticks, __, ___, increment) => ticks.map((t) => clock(t, increment)) }, { ...axis, size: 70, values: (_, ticks) => ticks.map(short) }],
        series: [
          {},
          ...visible.map((show, i) => ({
            show,
            label: formatMetric(result.result[i]!.metric),
            stroke: colour(i),
            fill: stacked ? colour(i).replace(')', ' / 0.3)') : undefined,
            width: 1.5,
            points: { show: true, size: 5, fill: colour(i), filter: (u: uPlot, s: number) => isolated(u.data[s]!) },
          })),
        ],
        hooks: {
          setSelect: [
            (u) => {
              if (u.select.width > 4) onZoom(u.posToVal(u.select.left, 'x') * 1000, u.posToVal(u.select.left + u.select.width, 'x') * 1000);
            },
          ],
          setCursor: [(u) => hover(u, element)],
        },
      },
      stacked ? stack(data, visible) : data,
      element,
    );
    const resize = new ResizeObserver(() => plot.setSize({ width: element.clientWidth, height: plot.height }));
    resize.observe(element);
    return () => {
      resize.disconnect();
      plot.destroy();
    };
  }, [data, stacked, JSON.stringify(visible)]);

  const toggle = (i: number, only: boolean) => {
    const single = only && visible.every((v, j) => v === (j === i));
    setShown(visible.map((v, j) => (only ? single || j === i : j === i ? !v : v)));
  };
  return (
    <div class="graph" data-series={visible.length}>
      <div class="plot" ref={host} />
      <p class="hover muted" aria-live="off">&nbsp;</p>
      {result.result.length > MAX_SERIES && <p class="muted">The first {MAX_SERIES} of {result.result.length} series are drawn.</p>}
      <ul class="legend" aria-label="Series">
        {result.result.slice(0, MAX_SERIES).map(({ metric }, i) => (
          <li key={i}>
            <button class={visible[i] ? '' : 'off'} title="Click: only this one; with Ctrl: show or hide it" aria-pressed={visible[i]}
              onClick={(e) => toggle(i, !(e.ctrlKey || e.metaKey))}>
              <span class="swatch" style={{ background: colour(i) }} />
              <MetricText metric={metric} />
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}

/** Where a value stands between gaps: a line would not show it. */
function isolated(values: ArrayLike<number | null | undefined>): number[] {
  const found: number[] = [];
  for (let i = 0; i < values.length; i++)
    if (values[i] != null && values[i - 1] == null && values[i + 1] == null) found.push(i);
  return found;
}

/** A tick of the time axis in UTC: the date at midnight, else the time of day. */
function clock(seconds: number, increment: number): string {
  const iso = new Date(seconds * 1000).toISOString();
  if (increment >= 86400 || iso.slice(11, 19) === '00:00:00') return iso.slice(5, 10);
  return increment >= 60 ? iso.slice(11, 16) : iso.slice(11, 19);
}

function short(v: number): string {
  const size = Math.abs(v);
  if (size >= 1e15 || (size > 0 && size < 1e-4)) return v.toExponential(2);
  for (const [limit, suffix] of [[1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e3, 'k']] as const)
    if (size >= limit) return `${Number((v / limit).toFixed(3))}${suffix}`;
  return String(Number(v.toFixed(6)));
}

function hover(u: uPlot, element: HTMLElement) {
  const line = element.parentElement?.querySelector('.hover');
  const { idx } = u.cursor;
  if (!line) return;
  if (idx === null || idx === undefined) return void (line.textContent = '\u00a0');
  const time = new Date(u.data[0][idx]! * 1000).toISOString().replace('T', ' ').slice(0, 19);
  const focused = u.series.findIndex((s, i) => i > 0 && (s as { _focus?: boolean })._focus);
  const s = focused > 0 ? focused : u.series.length === 2 ? 1 : 0;
  line.textContent = s ? `${time} UTC — ${u.series[s]!.label}: ${u.data[s]![idx] ?? 'no value'}` : `${time} UTC`;
}
