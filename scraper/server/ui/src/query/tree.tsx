// The tree of an expression: how many series each part gives, which labels they carry, and how long it takes alone.
// A part that is picked is what the panel shows below.
import type { SyntaxNode } from '@lezer/common';
import { parser } from '@prometheus-io/lezer-promql';
import { useEffect, useMemo, useState } from 'preact/hooks';
import { api } from '../api';
import { IconButton, Load, Notice } from '../parts/parts';
import { humanSpan } from '../time';
import { type Metric, type QueryResult, isScalar } from '../types';
import { useApi } from '../use';

interface Part {
  kind: string;
  /** Can be asked as an instant query by itself. */
  text: string;
  children: Part[];
}

const KINDS: Record<string, string> = {
  AggregateExpr: 'aggregation', BinaryExpr: 'binary operator', FunctionCall: 'function', MatrixSelector: 'range selector',
  VectorSelector: 'selector', SubqueryExpr: 'subquery', UnaryExpr: 'sign', ParenExpr: 'parentheses', NumberDurationLiteral: 'number',
  StringLiteral: 'string', OffsetExpr: 'offset', StepInvariantExpr: '@ time', AnchoredExpr: 'anchored', SmoothedExpr: 'smoothed',
};
/** Parts whose insides are no expressions of their own. */
const LEAVES = new Set(['VectorSelector', 'MatrixSelector', 'NumberDurationLiteral', 'StringLiteral', 'OffsetExpr', 'StepInvariantExpr', 'AnchoredExpr', 'SmoothedExpr']);
/** What stands around a selector or a subquery and moves its time. */
const WRAPPERS = new Set(['OffsetExpr', 'StepInvariantExpr']);
/** The tree of a hostile text can be deep. */
const DEEPEST = 200;
const MOST_LABELS = 10;
const MOST_VALUES = 10;

/** The parts below `node`, outermost first. */
function partsBelow(node: SyntaxNode, source: string, depth = 0): Part[] {
  const parts: Part[] = [];
  for (let child = node.firstChild; child; child = child.nextSibling) {
    const kind = KINDS[child.name];
    if (!kind) {
      // Clauses (`by (…)`, `on (…)`) hold label names, and bodies hold the arguments.
      if (depth < DEEPEST && !/Modifier|Labels|Clause|Identifier/.test(child.name)) parts.push(...partsBelow(child, source, depth + 1));
      continue;
    }
    const leaf = LEAVES.has(child.name) && !(WRAPPERS.has(child.name) && child.firstChild?.name === 'SubqueryExpr');
    // The duration of a range or a subquery is a number to the grammar only.
    if (node.name === 'SubqueryExpr' && kind === 'number') continue;
    parts.push({ kind, text: source.slice(child.from, child.to), children: leaf || depth >= DEEPEST ? [] : partsBelow(child, source, depth + 1) });
  }
  return parts;
}

/** The outermost parts of an expression: one, or none where it does not parse. */
export function partsOf(expr: string): Part[] {
  return partsBelow(parser.parse(expr).topNode, expr);
}

/** A range selector's text without its range, since a graph has no ranges as values; undefined of anything else. */
export function withoutRange(expr: string): string | undefined {
  let node = parser.parse(expr).topNode.firstChild;
  while (node && WRAPPERS.has(node.name)) node = node.firstChild;
  const selector = node?.name === 'MatrixSelector' ? node.firstChild : undefined;
  return selector ? expr.slice(0, selector.to) + expr.slice(node!.to) : undefined;
}

interface TreeProps {
  expr: string;
  time?: number;
  picked?: string;
  onPick: (text: string | undefined) => void;
  onClose: () => void;
}

export function Tree({ expr, time, picked, onPick, onClose }: TreeProps) {
  // The server's parser is the judge of what is wrong with the text.
  const checked = useApi<unknown>('parse_query', { query: expr });
  const parts = useMemo(() => partsOf(expr), [expr]);
  const at = useMemo(() => String((time ?? Date.now()) / 1000), [expr, time]);
  return (
    <section class="tree-box" aria-label="Tree view">
      <IconButton icon="close" title="Hide tree view" onClick={onClose} />
      <Load from={checked}>
        {() => parts.length
          ? <ul class="tree">{parts.map((part, i) => <Branch key={expr + i} part={part} at={at} picked={picked} onPick={onPick} />)}</ul>
          : <Notice kind="info">There is nothing to show of this expression.</Notice>}
      </Load>
      {picked !== undefined && <p class="muted small">Below is the part that is picked. <button class="link" onClick={() => onPick(undefined)}>Show the whole expression</button></p>}
    </section>
  );
}

function Branch({ part, at, picked, onPick }: { part: Part; at: string; picked?: string; onPick: (text: string | undefined) => void }) {
  const asked = part.kind !== 'number' && part.kind !== 'string';
  const on = picked === part.text;
  return (
    <li>
      <button class="node" aria-pressed={on} title={`${part.kind}: ${part.text}`} onClick={() => onPick(on ? undefined : part.text)}>
        <code>{part.text.length > 160 ? `${part.text.slice(0, 160)}…` : part.text}</code>
      </button>{' '}
      {asked && <PartFacts query={part.text} at={at} />}
      {part.children.length > 0 && <ul>{part.children.map((child, i) => <Branch key={i} part={child} at={at} picked={picked} onPick={onPick} />)}</ul>}
    </li>
  );
}

/** The labels by how many values they have, most first, each with its commonest values. */
function cardinalities(metrics: Metric[]): [string, [string, number][]][] {
  const labels = new Map<string, Map<string, number>>();
  for (const metric of metrics)
    for (const [name, value] of Object.entries(metric)) {
      const values = labels.get(name) ?? labels.set(name, new Map()).get(name)!;
      values.set(value, (values.get(value) ?? 0) + 1);
    }
  return [...labels].map(([name, values]): [string, [string, number][]] => [name, [...values].sort((a, b) => b[1] - a[1])]).sort((a, b) => b[1].length - a[1].length);
}

function PartFacts({ query, at }: { query: string; at: string }) {
  const [facts, setFacts] = useState<{ count: string; took: string; labels: [string, [string, number][]][] }>();
  const [error, setError] = useState<string>();
  useEffect(() => {
    const abort = new AbortController();
    api<QueryResult>('query', { query, time: at }, abort.signal)
      .then(({ data, millis }) => {
        const took = humanSpan(millis);
        if (isScalar(data)) return setFacts({ count: data.resultType, took, labels: [] });
        setFacts({ count: `${data.result.length} result${data.result.length === 1 ? '' : 's'}`, took, labels: cardinalities(data.result.map((r) => r.metric)) });
      })
      .catch((e: Error) => !abort.signal.aborted && setError(e.message));
    return () => abort.abort();
  }, [query, at]);
  if (error) return <span class="badge down">{error}</span>;
  if (!facts) return <span class="muted small count" aria-busy="true">…</span>;
  return (
    <span class="part-facts">
      <span class="count">{facts.count}</span> <span class="muted">· {facts.took}</span>
      {facts.labels.slice(0, MOST_LABELS).map(([name, values]) => (
        <span key={name} class="chip" title={values.slice(0, MOST_VALUES).map(([value, n]) => `${value || '""'} (${n}×)`).join('\n') + (values.length > MOST_VALUES ? `\n… ${values.length - MOST_VALUES} more` : '')}>
          <i>{name}</i>: {values.length}
        </span>
      ))}
      {facts.labels.length > MOST_LABELS && <span class="muted">… {facts.labels.length - MOST_LABELS} more labels</span>}
    </span>
  );
}
