// What an answer holds and what it cost; opened, the server's own account of it.
import type { Answer } from '../api';
import { Facts } from '../parts/parts';
import { formatDuration, humanSpan } from '../time';
import type { QueryResult, QueryStats } from '../types';

const NAMES: Record<string, string> = {
  evalTotalTime: 'Evaluation', resultSortTime: 'Sorting', queryPreparationTime: 'Preparation', innerEvalTime: 'Inner evaluation', execQueueTime: 'Waiting', execTotalTime: 'In total',
};

export function Cost({ answer: { data, millis }, step }: { answer: Answer<QueryResult & { stats?: QueryStats }>; step: number }) {
  const { timings, samples } = data.stats ?? {};
  const series = data.resultType === 'vector' || data.resultType === 'matrix' ? data.result.length : undefined;
  const rows: [string, string][] = [];
  if (samples?.totalQueryableSamples !== undefined) rows.push(['Samples read', samples.totalQueryableSamples.toLocaleString('en')]);
  if (samples?.peakSamples !== undefined) rows.push(['Most samples at once', samples.peakSamples.toLocaleString('en')]);
  for (const [name, seconds] of Object.entries(timings ?? {})) rows.push([NAMES[name] ?? name, humanSpan(seconds * 1000)]);
  return (
    <details class="cost">
      <summary>
        <span>Load time: {humanSpan(millis)}</span>
        {series !== undefined && <span>Result series: {series.toLocaleString('en')}</span>}
        {step > 0 && <span>Resolution: {formatDuration(step)}</span>}
      </summary>
      <Facts rows={rows} />
    </details>
  );
}
