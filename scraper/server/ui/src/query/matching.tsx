// Which series of both sides of an operator find each other, and what keeps them from it.
import { useMemo } from 'preact/hooks';
import { LabelChips, Load, MetricText, Some } from '../parts/parts';
import { type Matching, type Metric, type QueryResult, isScalar } from '../types';
import { useApi } from '../use';

interface Group {
  labels: Metric;
  left: Metric[];
  right: Metric[];
}

/** The labels that partners must agree in. */
function signature(metric: Metric, { on, labels }: Matching): Metric {
  const picked = Object.entries(metric).filter(([name]) => (on ? labels.includes(name) : name !== '__name__' && !labels.includes(name)));
  return Object.fromEntries(picked.sort(([a], [b]) => (a < b ? -1 : 1)));
}

export function groupsOf(left: Metric[], right: Metric[], matching: Matching): Group[] {
  const groups = new Map<string, Group>();
  const add = (metrics: Metric[], side: 'left' | 'right') => {
    for (const metric of metrics) {
      const labels = signature(metric, matching);
      const key = JSON.stringify(labels);
      const group = groups.get(key) ?? { labels, left: [], right: [] };
      groups.set(key, group);
      group[side].push(metric);
    }
  };
  add(left, 'left');
  add(right, 'right');
  // What fails stands first, then what finds no partner.
  const rank = (group: Group) => ({ error: 0, none: 1, match: 2 })[verdict(group, matching).kind];
  return [...groups.values()].sort((a, b) => rank(a) - rank(b));
}

/** What becomes of a group; `or` and `unless` keep series without a partner, which `verdict` calls none all the same. */
function verdict({ left, right }: Group, { card }: Matching): { kind: 'match' | 'none' | 'error'; text: string } {
  if (!left.length) return { kind: 'none', text: 'no partner on the left' };
  if (!right.length) return { kind: 'none', text: 'no partner on the right' };
  if (card === 'many-to-many') return { kind: 'match', text: 'match' };
  if (right.length > 1 && card !== 'one-to-many') return { kind: 'error', text: `${right.length} series on the right: only one may match` };
  if (left.length > 1 && card !== 'many-to-one') return { kind: 'error', text: `${left.length} series on the left: only one may match${card === 'one-to-one' ? ', or group_left is needed' : ''}` };
  return { kind: 'match', text: 'match' };
}

const BADGES = { match: 'up', none: 'unknown', error: 'down' };
/** Series of one side of a group that are named. */
const MOST_NAMED = 3;

export function MatchedGroups({ left, right, time, matching, op }: { left: string; right: string; time?: number; matching: Matching; op: string }) {
  const at = useMemo(() => String((time ?? Date.now()) / 1000), [left, right, time]);
  const leftResult = useApi<QueryResult>('query', { query: left, time: at });
  const rightResult = useApi<QueryResult>('query', { query: right, time: at });
  return (
    <Load from={leftResult}>
      {(l) => <Load from={rightResult}>{(r) => (isScalar(l) || isScalar(r) ? null : <Groups groups={groupsOf(l.result.map((s) => s.metric), r.result.map((s) => s.metric), matching)} matching={matching} op={op} />)}</Load>}
    </Load>
  );
}

function Groups({ groups, matching, op }: { groups: Group[]; matching: Matching; op: string }) {
  const matched = groups.filter((g) => verdict(g, matching).kind === 'match').length;
  return (
    <>
      <h3>{matched} of {groups.length} groups match</h3>
      <Some of={groups} first={20} noun="groups">
        {(some) => (
          <div class="scroll" role="region" aria-label="Groups" tabIndex={0}>
            <table class="list">
              <thead><tr><th>Common labels</th><th>Left side</th><th>Right side</th><th><code>{op}</code></th></tr></thead>
              <tbody>
                {some.map((group) => {
                  const { kind, text } = verdict(group, matching);
                  return <tr key={JSON.stringify(group.labels)}><td><LabelChips labels={group.labels} /></td><td><Side metrics={group.left} /></td><td><Side metrics={group.right} /></td><td><span class={`badge ${BADGES[kind]}`}>{text}</span></td></tr>;
                })}
              </tbody>
            </table>
          </div>
        )}
      </Some>
    </>
  );
}

function Side({ metrics }: { metrics: Metric[] }) {
  return (
    <>
      {metrics.slice(0, MOST_NAMED).map((metric, i) => <div key={i}><MetricText metric={metric} /></div>)}
      {metrics.length > MOST_NAMED && <div class="muted small">… {metrics.length - MOST_NAMED} more series</div>}
    </>
  );
}
