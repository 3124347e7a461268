// An instant result as a table.
import { type NativeHistogram, type Point, type QueryResult, isScalar } from '../api';
import { MetricText } from '../parts';
import { formatTime } from '../time';

const MAX_ROWS = 10000;

export function Table({ result }: { result: QueryResult }) {
  if (isScalar(result))
    return <table class="result"><tbody><tr><td>{result.resultType}</td><td class="value">{result.result[1]}</td></tr></tbody></table>;
  if (!result.result.length) return <p class="muted">Empty result</p>;
  return (
    <>
      <table class="result">
        <tbody>
          {result.result.slice(0, MAX_ROWS).map((row, i) => (
            <tr key={i}>
              <td><MetricText metric={row.metric} /></td>
              <td class="value">
                {'value' in row && row.value ? row.value[1] : null}
                {'histogram' in row && row.histogram ? <Histogram h={row.histogram[1]} /> : null}
                {'values' in row && row.values ? row.values.map((p, j) => <Sample key={j} point={p} />) : null}
                {'histograms' in row && row.histograms ? row.histograms.map(([t, h], j) => <div key={j}><Histogram h={h} /> @{t}</div>) : null}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
      {result.result.length > MAX_ROWS && <p class="muted">The first {MAX_ROWS} of {result.result.length} rows are shown.</p>}
    </>
  );
}

function Sample({ point: [time, value] }: { point: Point }) {
  return <div>{value} <span class="muted" title={formatTime(time * 1000)}>@{time}</span></div>;
}

function Histogram({ h }: { h: NativeHistogram }) {
  const buckets = h.buckets ?? [];
  const top = Math.max(...buckets.map((b) => Number(b[3])), 1e-300);
  return (
    <div class="histogram">
      <span>count {h.count}, sum {h.sum}</span>
      <div class="bars" role="img" aria-label={`${buckets.length} buckets`}>
        {buckets.map(([rule, low, high, count], i) => (
          <span key={i} style={{ height: `${(100 * Number(count)) / top}%` }} title={`${'([(['[rule]}${low}, ${high}${']))]'[rule]}: ${count}`} />
        ))}
      </div>
    </div>
  );
}
