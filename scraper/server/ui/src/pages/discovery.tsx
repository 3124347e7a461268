// Service discovery: what was found, before and after relabelling, and what relabelling dropped.
import { useMemo, useState } from 'preact/hooks';
import { labelsText, matchesWords } from '../labels';
import { Choices, Empty, LabelChips, Load, Notice, Page, Refresh, SearchBox, Some } from '../parts/parts';
import type { Metric, Targets } from '../types';
import { useApi, useUrlParams } from '../use';
import { Pool, PoolSelect, firstRows, useOpenPools } from './pool';
import { RelabelDialog } from './relabelling';

type State = 'active' | 'dropped';

interface Row {
  pool: string;
  state: State;
  discovered: Metric;
  labels?: Metric;
}

interface Filter {
  pool: string;
  states: State[];
  search: string;
}

function rowsOf({ activeTargets, droppedTargets }: Targets): Row[] {
  return [
    ...activeTargets.map((t): Row => ({ pool: t.scrapePool, state: 'active', discovered: t.discoveredLabels, labels: t.labels })),
    ...droppedTargets.map((t): Row => ({ pool: t.scrapePool ?? t.discoveredLabels.job ?? '', state: 'dropped', discovered: t.discoveredLabels })),
  ];
}

const textOf = (row: Row) => labelsText({ ...row.discovered, ...row.labels });

export function DiscoveryPage() {
  const targets = useApi<Targets>('targets', { state: 'any' });
  const pools = useApi<{ scrapePools: string[] }>('scrape_pools');
  const names = pools.data?.scrapePools ?? [];
  const [params, setParams] = useUrlParams();
  const filter: Filter = {
    pool: params.get('pool') ?? '',
    states: params.getAll('state').filter((s): s is State => s === 'active' || s === 'dropped'),
    search: params.get('search') ?? '',
  };
  return (
    <Page title="Service discovery" aside={<Refresh from={targets} />}>
      <div class="bar filters">
        <PoolSelect names={names} value={filter.pool} onPick={(pool) => setParams({ pool })} />
        <Choices label="State" of={[{ value: 'active' as State, text: 'active' }, { value: 'dropped' as State, text: 'dropped' }]} picked={filter.states} onPick={(state) => setParams({ state })} />
        <SearchBox placeholder="Filter by label" value={filter.search} onInput={(search) => setParams({ search })} />
      </div>
      <Load from={targets}>{(data) => <Pools key={filter.pool} names={names} data={data} filter={filter} />}</Load>
    </Page>
  );
}

function Pools({ names, data, filter }: { names: string[]; data: Targets; filter: Filter }) {
  const rows = useMemo(() => rowsOf(data), [data]);
  const all = [...new Set([...names, ...rows.map((r) => r.pool)])].filter((name) => !filter.pool || name === filter.pool).sort();
  const kept = rows.filter((r) => (!filter.states.length || filter.states.includes(r.state)) && (!filter.search || matchesWords(textOf(r), filter.search)));
  const filtered = filter.states.length > 0 || filter.search !== '';
  const shown = filtered ? all.filter((name) => kept.some((r) => r.pool === name)) : all;
  const open = useOpenPools(shown);
  if (!all.length) return <Empty title="There are no scrape pools.">Add a job under <code>scrape_configs</code> and reload the configuration.</Empty>;
  if (!shown.length) return <Empty title="Nothing that was discovered matches the filter." />;
  return (
    <>
      {shown.length > 1 && <p class="bar"><button class="link small" onClick={() => open.setAll(!open.anyOpen)}>{open.anyOpen ? 'Collapse' : 'Expand'} all pools</button></p>}
      {shown.map((name) => {
        const active = rows.filter((r) => r.pool === name && r.labels).length;
        const listed = rows.filter((r) => r.pool === name && !r.labels).length;
        const dropped = data.droppedTargetCounts?.[name] ?? listed;
        const members = kept.filter((r) => r.pool === name);
        return (
          <Pool key={name} name={name} health={active ? 'up' : 'unknown'} open={open.isOpen(name)} onToggle={(on) => open.toggle(name, on)}
            badges={<span class={`badge ${active ? 'up' : 'unknown'}`}>{active} / {active + dropped} active</span>}>
            {() => (
              <>
                {dropped > listed && <Notice kind="info">{dropped} targets were dropped, of which {listed} are kept to be shown (keep_dropped_targets).</Notice>}
                {members.length ? <Some of={members} first={firstRows(shown.length)} noun="targets">{(some) => <DiscoveredTable rows={some} />}</Some> : <Empty title="Nothing was discovered for this pool." />}
              </>
            )}
          </Pool>
        );
      })}
    </>
  );
}

function DiscoveredTable({ rows }: { rows: Row[] }) {
  const [shown, setShown] = useState<Row>();
  return (
    <>
      <table class="list discovered-targets">
        <thead><tr><th>Discovered labels</th><th>Target labels</th></tr></thead>
        <tbody>
          {rows.map((row, i) => (
            <tr key={i}>
              <td><LabelChips labels={row.discovered} /></td>
              <td>
                {row.labels ? <LabelChips labels={row.labels} /> : <span class="badge unknown">dropped by relabelling</span>}
                <div><button class="link small" onClick={() => setShown(row)}>Show relabelling</button></div>
              </td>
            </tr>
          ))}
        </tbody>
      </table>
      {shown && <RelabelDialog pool={shown.pool} discovered={shown.discovered} onClose={() => setShown(undefined)} />}
    </>
  );
}
