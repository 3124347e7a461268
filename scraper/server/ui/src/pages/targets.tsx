// Target health: every target by pool, with what its last scrape gave.
import { useMemo, useState } from 'preact/hooks';
import { labelsText, matchesWords } from '../labels';
import { Choices, Empty, LabelChips, Load, Notice, Page, Refresh, SearchBox, Some } from '../parts/parts';
import { ago, humanSpan } from '../time';
import type { Health, Target, Targets } from '../types';
import { type Loaded, useApi, useUrlParams } from '../use';
import { Pool, PoolSelect, firstRows, useOpenPools } from './pool';
import { RelabelDialog } from './relabelling';

const HEALTHS: Health[] = ['up', 'down', 'unknown'];

interface Filter {
  pool: string;
  healths: Health[];
  search: string;
}

function textOf(t: Target): string {
  return `${t.scrapeUrl} ${t.lastError} ${labelsText(t.labels)}`;
}

const countHealth = (targets: Target[], health: Health) => targets.filter((t) => t.health === health).length;

export function TargetsPage() {
  const targets = useApi<Targets>('targets', { state: 'active' });
  const pools = useApi<{ scrapePools: string[] }>('scrape_pools');
  const names = pools.data?.scrapePools ?? [];
  const [params, setParams] = useUrlParams();
  const filter: Filter = {
    pool: params.get('pool') ?? '',
    healths: params.getAll('health').filter((h): h is Health => HEALTHS.includes(h as Health)),
    search: params.get('search') ?? '',
  };
  const all = targets.data?.activeTargets ?? [];
  const inPool = filter.pool ? all.filter((t) => t.scrapePool === filter.pool) : all;
  const reload: Loaded<unknown> = { ...targets, reload: () => (targets.reload(), pools.reload()) };
  return (
    <Page title="Target health" aside={<Refresh from={reload} />}>
      <div class="bar filters">
        <PoolSelect names={names} value={filter.pool} onPick={(pool) => setParams({ pool })} />
        <Choices label="Health" of={HEALTHS.map((value) => ({ value, text: `${value} ${countHealth(inPool, value)}` }))} picked={filter.healths} onPick={(health) => setParams({ health })} />
        <SearchBox placeholder="Filter by endpoint, label or error" value={filter.search} onInput={(search) => setParams({ search })} />
      </div>
      <Load from={targets}>
        {({ activeTargets }) => <Pools key={filter.pool} names={names} targets={activeTargets} filter={filter} />}
      </Load>
    </Page>
  );
}

function Pools({ names, targets, filter }: { names: string[]; targets: Target[]; filter: Filter }) {
  const [showEmpty, setShowEmpty] = useState(false);
  const byPool = useMemo(() => {
    const pools = new Map<string, { all: Target[]; kept: Target[] }>(names.map((name) => [name, { all: [], kept: [] }]));
    for (const target of targets) {
      const pool = pools.get(target.scrapePool) ?? { all: [], kept: [] };
      pools.set(target.scrapePool, pool);
      pool.all.push(target);
      if ((!filter.healths.length || filter.healths.includes(target.health)) && matchesWords(textOf(target), filter.search)) pool.kept.push(target);
    }
    return [...pools].filter(([name]) => !filter.pool || name === filter.pool).sort(([a], [b]) => a.localeCompare(b));
  }, [names, targets, JSON.stringify(filter)]);
  const shown = byPool.filter(([, pool]) => showEmpty || pool.kept.length);
  const open = useOpenPools(shown.map(([name]) => name));
  const hidden = byPool.length - shown.length;

  if (!byPool.length) return <Empty title="There are no scrape pools.">Add a job under <code>scrape_configs</code> and reload the configuration.</Empty>;
  return (
    <>
      <p class="muted bar">
        <span>{shown.reduce((sum, [, pool]) => sum + pool.kept.length, 0)} of {targets.length} targets</span>
        {shown.length > 1 && <button class="link small" onClick={() => open.setAll(!open.anyOpen)}>{open.anyOpen ? 'Collapse' : 'Expand'} all pools</button>}
        {hidden > 0 && <span>{hidden} {hidden === 1 ? 'pool has' : 'pools have'} no matching targets. <button class="link small" onClick={() => setShowEmpty(true)}>Show {hidden === 1 ? 'it' : 'them'}</button></span>}
      </p>
      {shown.map(([name, { all, kept }]) => {
        const up = countHealth(all, 'up');
        const down = countHealth(all, 'down');
        const health = down === 0 ? (up ? 'up' : 'unknown') : up ? 'mixed' : 'down';
        return (
          <Pool key={name} name={name} health={health} open={open.isOpen(name)} onToggle={(on) => open.toggle(name, on)}
            badges={<span class={`badge ${health}`}>{up} / {all.length} up</span>}>
            {() => kept.length ? <Some of={kept} first={firstRows(shown.length)} noun="targets">{(some) => <TargetTable targets={some} />}</Some> : <Empty title={all.length ? 'No target of this pool matches the filter.' : 'This pool has no targets.'} />}
          </Pool>
        );
      })}
    </>
  );
}

function TargetTable({ targets }: { targets: Target[] }) {
  return (
    <table class="list targets">
      <thead><tr><th>Endpoint</th><th>Labels</th><th>Last scrape</th><th>State</th></tr></thead>
      <tbody>{targets.map((t) => <TargetRow key={t.scrapeUrl + JSON.stringify(t.labels)} target={t} />)}</tbody>
    </table>
  );
}

function TargetRow({ target: t }: { target: Target }) {
  const [opened, setOpened] = useState(false);
  const [relabelling, setRelabelling] = useState(false);
  const url = t.scrapeUrl.split('?');
  return (
    <tr>
      <td class="endpoint">
        <a href={t.globalUrl} target="_blank" rel="noreferrer">{url[0]}</a>
        {url[1] && <div class="muted small">?{url[1]}</div>}
        {t.shard && <div class="muted small">shard {t.shard}</div>}
      </td>
      <td>
        <LabelChips labels={t.labels} />
        <button class="link small" aria-expanded={opened} onClick={() => setOpened(!opened)}>{opened ? 'Hide' : 'Show'} discovered labels</button>
        {opened && (
          <div class="discovered">
            <LabelChips labels={t.discoveredLabels} />
            <button class="small" onClick={() => setRelabelling(true)}>Show relabelling</button>
          </div>
        )}
        {relabelling && <RelabelDialog pool={t.scrapePool} discovered={t.discoveredLabels} onClose={() => setRelabelling(false)} />}
        {t.lastError && <Notice kind="error" title="Error scraping target:">{t.lastError}</Notice>}
      </td>
      <td class="nowrap timing">
        <span title={t.lastScrape}>{ago(t.lastScrape)}</span>
        <span class="muted small">took {humanSpan(t.lastScrapeDuration * 1000)}</span>
        <span class="muted small">every {t.scrapeInterval}, at most {t.scrapeTimeout}</span>
      </td>
      <td><span class={`badge ${t.health}`}>{t.health}</span></td>
    </tr>
  );
}
