import { useState } from 'preact/hooks';
import { LabelChips, Load, Notice } from '../parts';
import { ago } from '../time';
import { Steps } from './discovery';
import { useApi, useStored } from '../use';
import type { Metric } from '../api';

interface Target {
  discoveredLabels: Metric;
  labels: Metric;
  scrapePool: string;
  scrapeUrl: string;
  globalUrl: string;
  lastError: string;
  lastScrape: string;
  lastScrapeDuration: number;
  health: 'up' | 'down' | 'unknown';
  scrapeInterval: string;
  scrapeTimeout: string;
  shard?: string;
}

interface Targets {
  activeTargets: Target[];
}

function byPool(targets: Target[]): Map<string, Target[]> {
  const pools = new Map<string, Target[]>();
  for (const target of targets) {
    const pool = pools.get(target.scrapePool) ?? [];
    pool.push(target);
    pools.set(target.scrapePool, pool);
  }
  return new Map([...pools].sort(([a], [b]) => a.localeCompare(b)));
}

export function TargetsPage() {
  const targets = useApi<Targets>('targets', { state: 'active' });
  const [search, setSearch] = useState('');
  const [pool, setPool] = useState(new URLSearchParams(location.search).get('pool') ?? '');
  const [health, setHealth] = useStored('narthex.targets.health', 'all');
  return (
    <>
      <h1>Targets</h1>
      <div class="bar">
        <input type="search" aria-label="Filter" placeholder="Filter by URL, label or error" value={search} onInput={(e) => setSearch(e.currentTarget.value)} />
        <select aria-label="Scrape pool" value={pool} onChange={(e) => setPool(e.currentTarget.value)}>
          <option value="">all pools</option>
          {[...byPool(targets.data?.activeTargets ?? []).keys()].map((p) => <option key={p}>{p}</option>)}
        </select>
        <select aria-label="Health" value={health} onChange={(e) => setHealth(e.currentTarget.value)}>
          {['all', 'up', 'down', 'unknown'].map((h) => <option key={h}>{h}</option>)}
        </select>
        <button onClick={targets.reload}>Refresh</button>
      </div>
      <Load from={targets}>
        {({ activeTargets }) => {
          const words = search.toLowerCase().split(/\s+/).filter(Boolean);
          const kept = activeTargets.filter((t) => {
            const text = `${t.scrapeUrl} ${t.lastError} ${Object.entries(t.labels).map(([k, v]) => `${k}="${v}"`).join(' ')}`.toLowerCase();
            return (!pool || t.scrapePool === pool) && (health === 'all' || t.health === health) && words.every((w) => text.includes(w));
          });
          if (!activeTargets.length) return <Notice kind="info">No targets. Add a scrape configuration, then reload.</Notice>;
          if (!kept.length) return <p class="muted">No target matches.</p>;
          return [...byPool(kept)].map(([pool, members]) => <Pool key={pool} pool={pool} members={members} />);
        }}
      </Load>
    </>
  );
}

function Pool({ pool, members }: { pool: string; members: Target[] }) {
  const up = members.filter((t) => t.health === 'up').length;
  return (
    <details class="pool" open={members.length <= 50}>
      <summary><b>{pool}</b> <span class={`badge ${up === members.length ? 'up' : 'down'}`}>{up} / {members.length} up</span></summary>
      <div class="scroll">
        <table class="result">
          <thead><tr><th>Endpoint</th><th>State</th><th>Labels</th><th>Last scrape</th><th>Took</th></tr></thead>
          <tbody>
            {members.map((t) => (
              <tr key={t.scrapeUrl + JSON.stringify(t.labels)}>
                <td><a href={t.globalUrl}>{t.scrapeUrl}</a>{t.shard && <div class="muted small">{t.shard}</div>}</td>
                <td><span class={`badge ${t.health}`}>{t.health}</span></td>
                <td>
                  <LabelChips labels={t.labels} />
                  <details><summary class="muted small">before relabelling</summary><LabelChips labels={t.discoveredLabels} /><Steps pool={t.scrapePool} discovered={t.discoveredLabels} /></details>
                  {t.lastError && <Notice kind="error">{t.lastError}</Notice>}
                </td>
                <td class="nowrap">{ago(t.lastScrape)}</td>
                <td class="nowrap" title={`every ${t.scrapeInterval}, timeout ${t.scrapeTimeout}`}>{(t.lastScrapeDuration * 1000).toFixed(1)}ms</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </details>
  );
}
