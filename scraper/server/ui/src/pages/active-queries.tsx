// The queries that the server evaluates right now, with the order to end one, and those that cost the most of late.
import { useEffect, useState } from 'preact/hooks';
import { api } from '../api';
import { Card, Empty, Load, Notice, Page, Refresh } from '../parts/parts';
import { humanSpan } from '../time';
import type { ActiveQuery, Features } from '../types';
import { useApi } from '../use';
import { TopQueriesCard } from './top-queries';

const EVERY_MS = 2000;

export function ActiveQueriesPage() {
  const active = useApi<ActiveQuery[]>('status/active_queries');
  const features = useApi<Features>('features');
  const [said, setSaid] = useState<{ kind: 'error' | 'good'; text: string }>();
  useEffect(() => {
    const timer = setInterval(() => document.visibilityState === 'visible' && active.reload(), EVERY_MS);
    return () => clearInterval(timer);
  }, []);
  const cancel = ({ id, query }: ActiveQuery) =>
    api<unknown>('admin/cancel_query', { id: String(id) }).then(
      () => (setSaid({ kind: 'good', text: `Cancelled: ${query}` }), active.reload()),
      (e: Error) => setSaid({ kind: 'error', text: e.message }),
    );
  const mayCancel = features.data?.api?.admin ?? false;
  return (
    <Page title="Active queries" aside={<Refresh from={active} />}>
      {said && <Notice kind={said.kind}>{said.text}</Notice>}
      <Load from={active}>
        {(all) => all.length === 0
          ? <Empty title="No query is being evaluated.">This page looks again every {EVERY_MS / 1000} seconds. Queries that took long are in the log (--query.slow-log-threshold).</Empty>
          : (
            <Card>
              <div class="scroll" role="region" aria-label="Queries" tabIndex={0}>
                <table class="list">
                  <thead><tr><th>Query</th><th>Asked by</th><th>Running for</th><th><span class="hidden">Cancel</span></th></tr></thead>
                  <tbody>
                    {[...all].sort((a, b) => b.seconds - a.seconds).map((q) => (
                      <tr key={q.id}>
                        <td><code>{q.query}</code></td>
                        <td class="nowrap">{q.client}<div class="muted small">{q.path}, {q.class}</div></td>
                        <td class="nowrap">{humanSpan(q.seconds * 1000)}{!q.running && <div class="muted small">waiting</div>}</td>
                        <td><button class="small danger" disabled={!mayCancel} title={mayCancel ? 'End this query' : 'Needs --web.enable-admin-api'} onClick={() => cancel(q)}>Cancel</button></td>
                      </tr>
                    ))}
                  </tbody>
                </table>
              </div>
            </Card>
          )}
      </Load>
      <TopQueriesCard />
    </Page>
  );
}
