import { useState } from 'preact/hooks';
import { LabelChips, Load } from '../parts';
import { useApi } from '../use';
import type { Metric } from '../api';

interface Discovered {
  activeTargets: { discoveredLabels: Metric; labels: Metric; scrapePool: string }[];
  droppedTargets: { discoveredLabels: Metric; scrapePool?: string }[];
  droppedTargetCounts: Record<string, number>;
}

interface Row {
  pool: string;
  discovered: Metric;
  labels?: Metric;
}

export function DiscoveryPage() {
  const targets = useApi<Discovered>('targets', { state: 'any' });
  const [search, setSearch] = useState('');
  return (
    <>
      <h1>Service discovery</h1>
      <div class="bar">
        <input type="search" aria-label="Filter" placeholder="Filter by label" value={search} onInput={(e) => setSearch(e.currentTarget.value)} />
        <button onClick={targets.reload}>Refresh</button>
      </div>
      <Load from={targets}>
        {({ activeTargets, droppedTargets, droppedTargetCounts }) => {
          const rows: Row[] = [
            ...activeTargets.map((t) => ({ pool: t.scrapePool, discovered: t.discoveredLabels, labels: t.labels })),
            ...droppedTargets.map((t) => ({ pool: t.scrapePool ?? t.discoveredLabels.job ?? '', discovered: t.discoveredLabels })),
          ];
          const text = search.toLowerCase();
          const kept = rows.filter((r) => !text || JSON.stringify(r).toLowerCase().includes(text));
          const pools = [...new Set([...rows.map((r) => r.pool), ...Object.keys(droppedTargetCounts ?? {})])].sort();
          return pools.map((pool) => {
            const members = kept.filter((r) => r.pool === pool);
            const active = rows.filter((r) => r.pool === pool && r.labels).length;
            const dropped = droppedTargetCounts?.[pool] ?? rows.filter((r) => r.pool === pool && !r.labels).length;
            return (
              <details class="pool" key={pool} open={pools.length <= 3}>
                <summary><b>{pool}</b> <span class="badge unknown">{active} active, {dropped} dropped</span></summary>
                <div class="scroll">
                  <table class="result">
                    <thead><tr><th>Discovered labels</th><th>Target labels</th><th /></tr></thead>
                    <tbody>
                      {members.slice(0, 1000).map((row, i) => (
                        <tr key={i}>
                          <td><LabelChips labels={row.discovered} /></td>
                          <td>{row.labels ? <LabelChips labels={row.labels} /> : <span class="muted">dropped by relabelling</span>}</td>
                          <td><Steps pool={row.pool} discovered={row.discovered} /></td>
                        </tr>
                      ))}
                    </tbody>
                  </table>
                </div>
              </details>
            );
          });
        }}
      </Load>
    </>
  );
}

interface Step {
  rule: Record<string, unknown>;
  output: Metric;
  keep: boolean;
}

/** What each relabelling rule did to the labels; asked for when opened. */
export function Steps({ pool, discovered }: { pool: string; discovered: Metric }) {
  const [open, setOpen] = useState(false);
  return (
    <>
      <button class="small" aria-expanded={open} onClick={() => setOpen(!open)}>relabelling</button>
      {open && <StepList pool={pool} discovered={discovered} />}
    </>
  );
}

function StepList({ pool, discovered }: { pool: string; discovered: Metric }) {
  const steps = useApi<{ steps: Step[] }>('targets/relabel_steps', { scrapePool: pool, labels: JSON.stringify(discovered) });
  return (
    <Load from={steps}>
      {({ steps }) => !steps.length ? <p class="muted small">No rules.</p> : (
        <ol class="steps">
          {steps.map((step, i) => (
            <li key={i}>
              <code>{JSON.stringify(step.rule)}</code>
              {step.keep ? <LabelChips labels={step.output} /> : <span class="badge down">dropped</span>}
            </li>
          ))}
        </ol>
      )}
    </Load>
  );
}

interface Alertmanagers {
  activeAlertmanagers: { url: string }[];
  droppedAlertmanagers: { url: string }[];
}

export function AlertmanagersPage() {
  const found = useApi<Alertmanagers>('alertmanagers');
  return (
    <>
      <h1>Alertmanager discovery</h1>
      <Load from={found}>
        {({ activeAlertmanagers, droppedAlertmanagers }) => {
          const rows = [...activeAlertmanagers.map(({ url }) => ({ url, state: 'active' })), ...droppedAlertmanagers.map(({ url }) => ({ url, state: 'dropped' }))];
          if (!rows.length) return <p class="muted">No Alertmanagers.</p>;
          return (
            <table class="result">
              <tbody>{rows.map(({ url, state }) => <tr key={state + url}><td>{url}</td><td><span class={`badge ${state === 'active' ? 'up' : 'unknown'}`}>{state}</span></td></tr>)}</tbody>
            </table>
          );
        }}
      </Load>
    </>
  );
}
