// What uPlot draws: columns, stacks, axes and marks.
import uPlot from 'uplot';
import { settings } from '../settings';
import { formatTick } from '../time';
import type { ExemplarSeries, MatrixResult, Metric } from '../types';

/** Series that are drawn of a larger result. */
export const MOST_SERIES = 500;
/** Exemplars that are drawn; of more, every n-th. */
const MOST_EXEMPLARS = 300;

export interface PlotInput {
  result: MatrixResult;
  /** Milliseconds. */
  start: number;
  end: number;
  step: number;
  stacked: boolean;
  yMin?: number;
}

type Column = (number | null)[];
/** The points in time and each series's values at them; null where there is none. */
export type Columns = [number[], ...Column[]];

/** By the golden angle, so that neighbours differ however many there are. */
export function colour(i: number): string {
  return `hsl(${Math.round(i * 137.508) % 360} 62% ${i % 2 ? 42 : 52}%)`;
}

/** Columns on the common grid start, start+step, …; what is no finite number is a gap. */
export function columnsOf({ result, start, end, step }: PlotInput): Columns {
  const count = Math.floor((end - start) / step) + 1;
  const times = Array.from({ length: count }, (_, i) => (start + i * step) / 1000);
  const series = result.result.slice(0, MOST_SERIES).map(({ values = [], histograms = [] }) => {
    const column: Column = new Array(count).fill(null);
    const place = (seconds: number, text: string) => {
      const value = Number(text);
      const i = Math.round((seconds * 1000 - start) / step);
      if (i >= 0 && i < count && Number.isFinite(value)) column[i] = value;
    };
    for (const [t, v] of values) place(t, v);
    for (const [t, h] of histograms) place(t, h.sum);
    return column;
  });
  return [times, ...series];
}

/** Each shown series on top of those before it. */
export function stack([times, ...series]: Columns, shown: boolean[]): Columns {
  const sums = new Array<number>(times.length).fill(0);
  return [times, ...series.map((column, s) => (shown[s] ? column.map((v, i) => (v === null ? null : (sums[i]! += v))) : column))];
}

/** The area of each shown series down to the one below it. */
function bandsOf(shown: boolean[]): uPlot.Band[] {
  const bands: uPlot.Band[] = [];
  let below = 0;
  shown.forEach((on, i) => {
    if (!on) return;
    if (below) bands.push({ series: [i + 1, below], fill: withAlpha(colour(i)) });
    below = i + 1;
  });
  return bands;
}

const withAlpha = (hsl: string) => hsl.replace(')', ' / 0.35)');

/** Where a value stands between gaps: a line would not show it. */
function isolated(values: ArrayLike<number | null | undefined>): number[] {
  const found: number[] = [];
  for (let i = 0; i < values.length; i++)
    if (values[i] != null && values[i - 1] == null && values[i + 1] == null) found.push(i);
  return found;
}

export function shortNumber(v: number): string {
  const size = Math.abs(v);
  if (size >= 1e15 || (size > 0 && size < 1e-4)) return v.toExponential(2).replace(/\.?0+e/, 'e');
  for (const [limit, suffix] of [[1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e3, 'k']] as const)
    if (size >= limit) return `${Number((v / limit).toFixed(3))}${suffix}`;
  return String(Number(v.toFixed(6)));
}

/** Pixels between ticks of the time axis: more where seconds are written. */
function tickSpace(_: uPlot, __: number, min: number, max: number, pixels: number): number {
  return ((max - min) / pixels) * 60 <= 30 ? 70 : 45;
}

/** Wide enough for the longest number that stands at the axis. */
function axisWidth(u: uPlot, values: string[] | null): number {
  u.ctx.font = '12px system-ui, sans-serif';
  return Math.ceil(Math.max(30, ...(values ?? []).map((text) => u.ctx.measureText(text).width))) + 20;
}

/** A scale that holds `yMin`, the values, and some air; also where all values are equal. Areas stand on zero. */
function yRange(yMin: number | undefined, areas: boolean) {
  return (_: uPlot, min: number | null, max: number | null): uPlot.Range.MinMax => {
    if (min === null || max === null) return [yMin ?? 0, (yMin ?? 0) + 1];
    const low = yMin ?? (areas ? Math.min(0, min) : min);
    const high = Math.max(max, low);
    if (low === high) return [yMin ?? low - (Math.abs(low) / 10 || 1), high + (Math.abs(high) / 10 || 1)];
    const air = (high - low) * 0.05;
    return [yMin ?? (low >= 0 && low - air < 0 ? 0 : low - air), high + air];
  };
}

interface Hooks {
  onZoom: (start: number, end: number) => void;
  onCursor: (u: uPlot) => void;
  onDraw: (u: uPlot) => void;
}

export function optionsOf(input: PlotInput, shown: boolean[], element: HTMLElement, hooks: Hooks): uPlot.Options {
  // The canvas needs colours that are already resolved for the scheme in force.
  const { color, borderTopColor } = getComputedStyle(element);
  const lines = { stroke: borderTopColor, width: 1 };
  const axis = { stroke: color, grid: lines, ticks: lines, font: '12px system-ui, sans-serif' };
  const first = shown.indexOf(true);
  return {
    width: element.clientWidth,
    height: Math.round(Math.max(240, Math.min(460, innerHeight * 0.5))),
    legend: { show: false },
    tzDate: (ts) => (settings.get().localTime ? new Date(ts * 1000) : uPlot.tzDate(new Date(ts * 1000), 'UTC')),
    cursor: { drag: { x: true, y: false }, points: { size: 7, show: shown.length <= 30 } },
    scales: { x: { time: true, range: () => [input.start / 1000, input.end / 1000] }, y: { range: yRange(input.yMin, input.stacked) } },
    axes: [
      { ...axis, space: tickSpace, values: (_, ticks, __, ___, increment) => ticks.map((t) => formatTick(t, increment)) },
      { ...axis, size: axisWidth, values: (_, ticks) => ticks.map(shortNumber) },
    ],
    bands: input.stacked ? bandsOf(shown) : [],
    series: [
      {},
      ...shown.map((show, i) => ({
        show,
        stroke: colour(i),
        fill: input.stacked && i === first ? withAlpha(colour(i)) : undefined,
        width: 1.5,
        points: { show: true, size: 5, fill: colour(i), filter: (u: uPlot, s: number) => isolated(u.data[s]!) },
      })),
    ],
    hooks: {
      setSelect: [
        (u) => {
          if (u.select.width > 4) hooks.onZoom(u.posToVal(u.select.left, 'x') * 1000, u.posToVal(u.select.left + u.select.width, 'x') * 1000);
        },
      ],
      setCursor: [hooks.onCursor],
      draw: [hooks.onDraw],
    },
  };
}

/** The shown series whose line is nearest to the cursor, and its place in `columns`; undefined where none is near in time. */
export function nearest(u: uPlot, columns: Columns): { series: number; index: number } | undefined {
  const { idx, top } = u.cursor;
  if (idx === null || idx === undefined || top === undefined || top < 0) return undefined;
  let found: { series: number; index: number } | undefined;
  let best = Infinity;
  for (let s = 1; s < u.data.length; s++) {
    const drawn = u.data[s]![idx];
    if (!u.series[s]!.show || drawn === null || drawn === undefined || columns[s]![idx] === null) continue;
    const away = Math.abs(u.valToPos(drawn, 'y') - top);
    if (away < best) [best, found] = [away, { series: s - 1, index: idx }];
  }
  return found;
}

export interface Mark {
  series: Metric;
  labels: Metric;
  value: string;
  /** Seconds. */
  timestamp: number;
}

export function marksOf(exemplars: ExemplarSeries[]): Mark[] {
  const all = exemplars.flatMap((s) => s.exemplars.map((e) => ({ series: s.seriesLabels, ...e })));
  const every = Math.ceil(all.length / MOST_EXEMPLARS);
  return all.filter((_, i) => i % every === 0);
}

/** Puts a button for each exemplar over the plot; values outside of the scale stand at its edge. */
export function placeMarks(u: uPlot, marks: Mark[], pick: (mark: Mark) => void) {
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
