// An instant result as a table.
import type { ComponentChildren } from 'preact';
import { Some, MetricText } from '../parts/parts';
import { formatTime } from '../time';
import { type MatrixResult, type NativeHistogram, type QueryResult, type VectorResult, isScalar } from '../types';
import { Histogram } from './histogram';
import { formatMetric } from '../labels';

/** Above this many rows, names are plain text: thousands of coloured labels make a page slow. */
const MOST_COLOURED = 1000;
const FIRST_ROWS = 250;
/** Points that one row of a range vector shows at first. */
const FIRST_POINTS = 100;

export function Table({ result }: { result: QueryResult }) {
  if (isScalar(result))
    return <table class="list result"><tbody><tr><td>{result.resultType}</td><td class="value">{result.result[1]}</td></tr></tbody></table>;
  const plain = result.result.length > MOST_COLOURED;
  return (
    <Some of={result.result as (VectorResult | MatrixResult)['result'][number][]} first={FIRST_ROWS} noun="series">
      {(rows) => (
        <table class="list result">
          <tbody>
            {rows.map((row, i) => (
              <tr key={i} class={hasHistogram(row) ? 'tall' : undefined}>
                <td>{plain ? <span class="metric">{formatMetric(row.metric)}</span> : <MetricText metric={row.metric} />}</td>
                <td class="value"><Values row={row} /></td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </Some>
  );
}

type Row = VectorResult['result'][number] | MatrixResult['result'][number];

function hasHistogram(row: Row): boolean {
  return 'histogram' in row || 'histograms' in row;
}

function Values({ row }: { row: Row }) {
  if ('value' in row && row.value) return <>{row.value[1]}</>;
  if ('histogram' in row && row.histogram) return <Histogram h={row.histogram[1]} />;
  const points: [number, string | NativeHistogram][] = [...(('values' in row && row.values) || []), ...(('histograms' in row && row.histograms) || [])];
  return (
    <Some of={points} first={FIRST_POINTS} noun="points">
      {(some) => some.map(([time, value], i) => <Timed key={i} time={time}>{typeof value === 'string' ? value : <Histogram h={value} />}</Timed>)}
    </Some>
  );
}

function Timed({ time, children }: { time: number; children: ComponentChildren }) {
  return <div>{children} <span class="muted" title={formatTime(time * 1000)}>@{time.toFixed(3)}</span></div>;
}
