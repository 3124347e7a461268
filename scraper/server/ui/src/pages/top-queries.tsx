// The queries of late that cost the most, by what one asks for.
import { useState } from 'preact/hooks';
import { Card, Empty, Load, Refresh } from '../parts/parts';
import { withExpr, toUrl } from '../query/state';
import { base } from '../base';
import { formatDuration, formatTime, humanSpan } from '../time';
import type { TopQueries, TopQuery } from '../types';
import { useApi } from '../use';

const ORDERS = {
  topBySumDuration: 'Most time in total',
  topByAvgDuration: 'Slowest on average',
  topByCount: 'Asked most often',
  topByAvgMemoryUsage: 'Most memory on average',
} as const;
type Order = keyof typeof ORDERS;
const LIFETIMES = { '10m': '10 minutes', '1h': 'hour', '1d': 'day' } as const;

export function TopQueriesCard() {
  const [order, setOrder] = useState<Order>('topBySumDuration');
  const [lifetime, setLifetime] = useState('1h');
  const top = useApi<TopQueries>('status/top_queries', { topN: '20', maxLifetime: lifetime });
  return (
    <Card title="Costliest queries">
      <div class="controls">
        <select aria-label="Order" value={order} onChange={(e) => setOrder(e.currentTarget.value as Order)}>
          {Object.entries(ORDERS).map(([value, text]) => <option key={value} value={value}>{text}</option>)}
        </select>
        <select aria-label="Period" value={lifetime} onChange={(e) => setLifetime(e.currentTarget.value)}>
          {Object.entries(LIFETIMES).map(([value, text]) => <option key={value} value={value}>In the last {text}</option>)}
        </select>
        <span class="grow" />
        <Refresh from={top} />
      </div>
      <Load from={top}>
        {(lists) => lists[order].length === 0
          ? <Empty title="No query was evaluated in this time.">The server remembers the last {lists['search.queryStats.lastQueriesCount'].toLocaleString('en')} since it was started.</Empty>
          : (
            <div class="scroll" role="region" aria-label="Costliest queries" tabIndex={0}>
              <table class="list top-queries">
                <thead><tr><th>Query</th><th class="number">Count</th><th class="number">In total</th><th class="number">Average</th><th class="number">Slowest</th><th class="number">Samples</th><th class="number">Most memory</th><th class="number">Errors</th></tr></thead>
                <tbody>{lists[order].map((q) => <Row key={`${q.timeRangeSeconds} ${q.query}`} q={q} />)}</tbody>
              </table>
            </div>
          )}
      </Load>
    </Card>
  );
}

function Row({ q }: { q: TopQuery }) {
  const span = (seconds: number) => <td class="number">{humanSpan(seconds * 1000)}</td>;
  return (
    <tr>
      <td>
        <a href={`${base}/query${toUrl([withExpr(q.query)])}`}><code>{q.query}</code></a>
        <div class="muted small">
          {q.timeRangeSeconds > 0 ? `over ${formatDuration(q.timeRangeSeconds * 1000)}` : 'at one time'}, last by {q.client || 'nobody known'} ({q.class}) at {formatTime(q.lastTime * 1000)}
        </div>
        {q.lastError && <div class="small bad">{q.lastError}</div>}
      </td>
      <td class="number">{q.count.toLocaleString('en')}</td>
      {span(q.sumDurationSeconds)}
      {span(q.avgDurationSeconds)}
      {span(q.maxDurationSeconds)}
      <td class="number">{q.samples.toLocaleString('en')}</td>
      <td class="number">{humanBytes(q.maxMemoryBytes)}</td>
      <td class="number">{q.errors > 0 ? q.errors.toLocaleString('en') : ''}</td>
    </tr>
  );
}

function humanBytes(n: number): string {
  const units = ['B', 'kB', 'MB', 'GB'];
  let unit = 0;
  for (; n >= 1000 && unit < units.length - 1; unit++) n /= 1000;
  return `${n < 10 && unit > 0 ? n.toFixed(1) : Math.round(n)} ${units[unit]}`;
}
