// The tree of an expression: how many series each part gives, which labels they carry, and how long it takes alone.
import { useEffect, useMemo, useState } from 'preact/hooks';
import { parser } from '@prometheus-io/lezer-promql';
import type { SyntaxNode } from '@lezer/common';
import { type Metric, type QueryResult, api, isScalar } from '../api';
import { Load, Notice } from '../parts';
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
const WRAPPED_SUBQUERY = new Set(['OffsetExpr', 'StepInvariantExpr']);

/** The parts below `node`, outermost first; nesting is bounded, since the tree of a hostile text can be deep. */
function partsBelow(node: SyntaxNode, source: string, depth = 0): Part[] {
  const parts: Part[] = [];
  for (let child = node.firstChild; child; child = child.nextSibling) {
    const kind = KINDS[child.name];
    if (!kind) {
      // Clauses (`by (…)`, `on (…)`) hold label names, and bodies hold the arguments.
      if (depth < 200 && !/Modifier|Labels|Clause|Identifier/.test(child.name)) parts.push(...partsBelow(child, source, depth + 1));
      continue;
    }
    const leaf = LEAVES.has(child.name) && !(WRAPPED_SUBQUERY.has(child.name) && child.firstChild?.name === 'SubqueryExpr');
    // The duration of a range or a subquery is a number to the grammar only.
    if (node.name === 'SubqueryExpr' && kind === 'number') continue;
    parts.push({ kind, text: source.slice(child.from, child.to), children: leaf || depth >= 200 ? [] : partsBelow(child, source, depth + 1) });
  }
  return parts;
}

export function Explain({ expr, time }: { expr: string; time?: number }) {
  // The server's parser is the judge of what is wrong with the text.
  const checked = useApi<unknown>('parse_query', { query: expr });
  const parts = useMemo(() => partsBelow(parser.parse(expr).topNode, expr), [expr]);
  const at = useMemo(() => String((time ?? Date.now()) / 1000), [expr, time]);
  return (
    <Load from={checked}>
      {() => (parts.length ? <ul class="tree">{parts.map((part, i) => <Tree key={expr + i} part={part} at={at} />)}</ul> : <Notice kind="info">Nothing to show.</Notice>)}
    </Load>
  );
}

function Tree({ part, at }: { part: Part; at: string }) {
  const asked = part.kind !== 'number' && part.kind !== 'string';
  return (
    <li>
      <code class="node" title={part.text}>{part.text.length > 160 ? `${part.text.slice(0, 160)}…` : part.text}</code>{' '}
      <span class="muted small">{part.kind}</span> {asked && <Facts query={part.text} at={at} />}
      {part.children.length > 0 && <ul>{part.children.map((child, i) => <Tree key={i} part={child} at={at} />)}</ul>}
    </li>
  );
}

/** The labels by how many values they have, most first. */
function cardinalities(metrics: Metric[]): [string, number][] {
  const values = new Map<string, Set<string>>();
  for (const metric of metrics)
    for (const [name, value] of Object.entries(metric)) (values.get(name) ?? values.set(name, new Set()).get(name)!).add(value);
  return [...values].map(([name, set]): [string, number] => [name, set.size]).sort((a, b) => b[1] - a[1]);
}

function Facts({ query, at }: { query: string; at: string }) {
  const [facts, setFacts] = useState<{ count: string; labels: [string, number][] }>();
  const [error, setError] = useState<string>();
  useEffect(() => {
    const abort = new AbortController();
    api<QueryResult>('query', { query, time: at }, abort.signal)
      .then(({ data, millis }) => {
        const took = `${Math.round(millis)} ms`;
        if (isScalar(data)) return setFacts({ count: `${data.resultType}, ${took}`, labels: [] });
        setFacts({ count: `${data.result.length} series, ${took}`, labels: cardinalities(data.result.map((r) => r.metric)) });
      })
      .catch((e: Error) => !abort.signal.aborted && setError(e.message));
    return () => abort.abort();
  }, [query, at]);
  if (error) return <span class="badge down">{error}</span>;
  return (
    <>
      <span class="chip count" aria-busy={!facts}>{facts?.count ?? '…'}</span>{' '}
      {facts?.labels.slice(0, 8).map(([name, values]) => <span key={name} class="chip muted" title={`${values} values of ${name}`}>{name} {values}</span>)}
      {(facts?.labels.length ?? 0) > 8 && <span class="muted small"> and {facts!.labels.length - 8} labels more</span>}
    </>
  );
}
