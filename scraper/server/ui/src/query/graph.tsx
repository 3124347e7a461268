// A range query as lines (or stacked areas) by uPlot, with what is under the cursor, and a legend that shows and hides.
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';
import { LabelChips, MetricText, Notice, Some } from '../parts/parts';
import { settings } from '../settings';
import { type Store, store } from '../store';
import { formatTime } from '../time';
import type { ExemplarSeries, Metric } from '../types';
import { type Columns, MOST_SERIES, type Mark, type PlotInput, colour, columnsOf, marksOf, nearest, optionsOf, placeMarks, stack } from './plot';

interface Props extends PlotInput {
  exemplars: ExemplarSeries[];
  onZoom: (start: number, end: number) => void;
}

/** What is under the cursor, and where that is in the plot. */
interface Hover {
  series: number;
  index: number;
  left: number;
  top: number;
  /** Whether the box stands left of the cursor. */
  flipped: boolean;
}

function useDarkScheme(): boolean {
  const [dark, setDark] = useState(() => matchMedia('(prefers-color-scheme: dark)').matches);
  useEffect(() => {
    const query = matchMedia('(prefers-color-scheme: dark)');
    const changed = () => setDark(query.matches);
    query.addEventListener('change', changed);
    return () => query.removeEventListener('change', changed);
  }, []);
  return dark;
}

export function Graph(props: Props) {
  const { result, stacked, yMin, exemplars, onZoom } = props;
  const drawn = result.result.slice(0, MOST_SERIES);
  const host = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const [shown, setShown] = useState<boolean[]>(() => drawn.map(() => true));
  // In a store of its own: the box follows the mouse without the legend being drawn again.
  const hover = useMemo(() => store<Hover | undefined>(undefined), []);
  const [picked, setPicked] = useState<Mark>();
  const { theme } = settings.use();
  const dark = useDarkScheme();
  const columns = useMemo(() => columnsOf(props), [result]);
  const marks = useMemo(() => marksOf(exemplars), [exemplars]);
  // A new answer has series of its own.
  const visible = shown.length === drawn.length ? shown : drawn.map(() => true);

  useEffect(() => {
    setShown(drawn.map(() => true));
    hover.set(undefined);
  }, [result]);
  useEffect(() => setPicked(undefined), [marks]);

  // Stacked, hiding one series moves the others: then the plot is made anew.
  useEffect(() => {
    const element = host.current!;
    const onCursor = (u: uPlot) => {
      const found = nearest(u, columns);
      const { left = 0, top = 0 } = u.cursor;
      hover.set(found && { ...found, left: left + u.over.offsetLeft, top: top + u.over.offsetTop, flipped: left > u.over.clientWidth / 2 });
    };
    const own = new uPlot(
      optionsOf(props, visible, element, { onZoom, onCursor, onDraw: (u) => placeMarks(u, marks, setPicked) }),
      (stacked ? stack(columns, visible) : columns) as uPlot.AlignedData,
      element,
    );
    plot.current = own;
    const resize = new ResizeObserver(() => own.setSize({ width: element.clientWidth, height: own.height }));
    resize.observe(element);
    return () => {
      resize.disconnect();
      own.destroy();
    };
  }, [columns, stacked, yMin, marks, theme, dark, stacked && JSON.stringify(visible)]);

  useEffect(() => {
    if (!stacked) plot.current!.batch(() => visible.forEach((show, i) => plot.current!.series[i + 1]!.show !== show && plot.current!.setSeries(i + 1, { show })));
  }, [visible]);

  const toggle = (i: number, more: boolean) => {
    const single = visible.every((v, j) => v === (j === i));
    setShown(visible.map((v, j) => (more ? (j === i ? !v : v) : single || j === i)));
  };
  return (
    <div class="graph" data-series={drawn.length}>
      {drawn.some((s) => s.histograms) && <Notice kind="info">Native histograms are drawn by their sum; the table shows their buckets.</Notice>}
      {result.result.length > drawn.length && <Notice kind="info">The first {drawn.length} of {result.result.length} series are drawn.</Notice>}
      <div class="plot-box" onMouseLeave={() => hover.set(undefined)}>
        <div class="plot" ref={host} role="img" aria-label={`Graph of ${drawn.length} series; the table has the values`} />
        <HoverBox hover={hover} columns={columns} metrics={drawn.map((s) => s.metric)} />
      </div>
      {picked && (
        <div class="notice info exemplar-facts" role="status">
          <b>Exemplar</b> {picked.value} at {formatTime(picked.timestamp * 1000)}
          <LabelChips labels={picked.labels} />
          <span class="muted small">of</span> <MetricText metric={picked.series} />
        </div>
      )}
      <Legend metrics={drawn.map((s) => s.metric)} visible={visible} onToggle={toggle} />
    </div>
  );
}

function HoverBox({ hover, columns, metrics }: { hover: Store<Hover | undefined>; columns: Columns; metrics: Metric[] }) {
  const at = hover.use();
  const metric = at && metrics[at.series];
  if (!metric) return null;
  const time = columns[0][at.index]! * 1000;
  const value = columns[at.series + 1]![at.index];
  const { __name__: name, ...labels } = metric;
  return (
    <div class={`hover-box${at.flipped ? ' flipped' : ''}`} style={{ left: `${at.left}px`, top: `${at.top}px` }}>
      <div class="muted">{formatTime(time)}</div>
      <div class="hover-value"><span class="swatch" style={{ background: colour(at.series) }} /><b>{value}</b></div>
      {name && <div class="hover-name">{name}</div>}
      {Object.entries(labels).map(([key, text]) => <div key={key} class="hover-label"><i>{key}</i>: {text}</div>)}
    </div>
  );
}

function Legend({ metrics, visible, onToggle }: { metrics: Metric[]; visible: boolean[]; onToggle: (series: number, more: boolean) => void }) {
  return (
    <div class="legend">
      {metrics.length > 1 && <p class="muted small">Click: show only this series, or all again. Ctrl + click: hide or show it.</p>}
      <Some of={metrics} first={100} noun="series">
        {(some) => (
          <ul aria-label="Series">
            {some.map((metric, i) => (
              <li key={i}>
                <button class={visible[i] ? '' : 'off'} aria-pressed={visible[i]} onClick={(e) => onToggle(i, e.ctrlKey || e.metaKey)}>
                  <span class="swatch" style={{ background: colour(i) }} />
                  <MetricText metric={metric} />
                </button>
              </li>
            ))}
          </ul>
        )}
      </Some>
    </div>
  );
}
