// A range query as lines (or stacked areas) by uPlot, with a legend that shows, hides and singles out series.
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';
import { type ExemplarSeries, type MatrixResult, formatMetric } from '../api';
import { LabelChips, MetricText } from '../parts';
import { currentZone, formatTick, formatTime } from '../time';

interface Props {
  result: MatrixResult;
  start: number;
  end: number;
  step: number;
  stacked: boolean;
  exemplars: ExemplarSeries[];
  onZoom: (start: number, end: number) => void;
}

const MAX_SERIES = 500;
/** Exemplars that are drawn; of more, every n-th. */
const MAX_EXEMPLARS = 300;

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
  const [picked, setPicked] = useState<Mark>();
  const marks = useMemo(() => thin(props.exemplars), [props.exemplars]);
  const data = useMemo(() => columns(props), [result]);
  const visible = result.result.slice(0, MAX_SERIES).map((_, i) => shown[i] ?? true);

  useEffect(() => setShown([]), [result]);
  useEffect(() => setPicked(undefined), [marks]);
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
        tzDate: (ts) => (currentZone() === 'UTC' ? uPlot.tzDate(new Date(ts * 1000), 'UTC') : new Date(ts * 1000)),
        cursor: { drag: { x: true, y: false }, focus: { prox: 30 } },
        focus: { alpha: 0.25 },
        scales: { x: { time: true } },
        axes: [{ ...axis, space: 75, values: (_, ticks, __, ___, increment) => ticks.map((t) => formatTick(t, increment)) }, { ...axis, size: 70, values: (_, ticks) => ticks.map(short) }],
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
          draw: [(u) => placeMarks(u, marks, setPicked)],
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
  }, [data, stacked, marks, JSON.stringify(visible)]);

  const toggle = (i: number, only: boolean) => {
    const single = only && visible.every((v, j) => v === (j === i));
    setShown(visible.map((v, j) => (only ? single || j === i : j === i ? !v : v)));
  };
  return (
    <div class="graph" data-series={visible.length}>
      <div class="plot" ref={host} />
      <p class="hover muted" aria-live="off">&nbsp;</p>
      {picked && (
        <div class="notice info exemplar-facts" role="status">
          <b>Exemplar</b> {picked.value} at {formatTime(picked.timestamp * 1000)}
          <LabelChips labels={picked.labels} />
          <span class="muted small">of</span> <MetricText metric={picked.series} />
        </div>
      )}
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

interface Mark {
  series: Record<string, string>;
  labels: Record<string, string>;
  value: string;
  timestamp: number;
}

function thin(exemplars: ExemplarSeries[]): Mark[] {
  const all = exemplars.flatMap((s) => s.exemplars.map((e) => ({ series: s.seriesLabels, ...e })));
  const every = Math.ceil(all.length / MAX_EXEMPLARS);
  return all.filter((_, i) => i % every === 0);
}

/** Puts a button for each exemplar over the plot; values outside of the scale stand at its edge. */
function placeMarks(u: uPlot, marks: Mark[], pick: (mark: Mark) => void) {
  u.over.querySelectorAll('.exemplar').forEach((old) => old.remove());
  for (const mark of marks) {
    const x = u.valToPos(mark.timestamp, 'x');
    if (!(x >= 0 && x <= u.over.clientWidth)) continue;
    const y = u.valToPos(Number(mark.value), 'y');
    const dot = document.createElement('button');
    dot.className = 'exemplar';
    dot.style.left = `${x}px`;
    dot.style.top = `${Number.isFinite(y) ? Math.min(Math.max(y, 0), u.over.clientHeight) : 0}px`;
    dot.title = `exemplar ${mark.value}\n${Object.entries(mark.labels).map(([k, v]) => `${k}=${v}`).join('\n')}`;
    dot.setAttribute('aria-label', `Exemplar ${mark.value}`);
    dot.onmousedown = (e) => e.stopPropagation();
    dot.onclick = () => pick(mark);
    u.over.append(dot);
  }
}

/** Where a value stands between gaps: a line would not show it. */
function isolated(values: ArrayLike<number | null | undefined>): number[] {
  const found: number[] = [];
  for (let i = 0; i < values.length; i++)
    if (values[i] != null && values[i - 1] == null && values[i + 1] == null) found.push(i);
  return found;
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
  const time = formatTime(u.data[0][idx]! * 1000);
  const focused = u.series.findIndex((s, i) => i > 0 && (s as { _focus?: boolean })._focus);
  const s = focused > 0 ? focused : u.series.length === 2 ? 1 : 0;
  line.textContent = s ? `${time} — ${u.series[s]!.label}: ${u.data[s]![idx] ?? 'no value'}` : time;
}
