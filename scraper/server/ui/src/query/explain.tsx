// Says in words what the outermost part of an expression does.
import { aggregateOpTerms, functionIdentifierTerms } from '@prometheus-io/codemirror-promql/dist/esm/complete/promql.terms';
import type { ComponentChildren } from 'preact';
import { Card, Empty, Facts, Load, Notice } from '../parts/parts';
import { labelName, quote } from '../labels';
import { formatDuration, formatTime } from '../time';
import type { Matcher, Matching, Node } from '../types';
import { useApi } from '../use';
import { MatchedGroups } from './matching';
import { partsOf } from './tree';

interface Props {
  expr: string;
  time?: number;
  treeShown: boolean;
  onShowTree: () => void;
}

export function Explain({ expr, time, treeShown, onShowTree }: Props) {
  if (!expr.trim()) return <Empty title="Nothing to explain yet.">Enter an expression above.</Empty>;
  return (
    <>
      <p class="muted">
        {treeShown ? 'Pick a part in the tree above to have it explained.' : <>To have single parts explained, <button class="link" onClick={onShowTree}>show the tree view</button> and pick one.</>}
      </p>
      <Explained expr={expr} time={time} />
    </>
  );
}

function Explained({ expr, time }: { expr: string; time?: number }) {
  const parsed = useApi<Node>('parse_query', { query: expr });
  return <Load from={parsed}>{(node) => <NodeCard node={node} expr={expr} time={time} />}</Load>;
}

function NodeCard({ node, expr, time }: { node: Node; expr: string; time?: number }) {
  switch (node.type) {
    case 'vectorSelector':
    case 'matrixSelector':
      return (
        <Card title={node.type === 'vectorSelector' ? 'Instant vector selector' : 'Range vector selector'}>
          <p>
            {node.type === 'vectorSelector'
              ? 'Takes the newest sample of each series that matches, if it is not older than the lookback period (5 minutes, where nothing else is configured)'
              : <>Takes all samples of each series that matches from the last <b>{formatDuration(node.range)}</b></>}
            <Shift {...node} />.
          </p>
          <Matchers of={node.matchers} />
        </Card>
      );
    case 'subquery':
      return (
        <Card title="Subquery">
          <p>Evaluates the inner expression over the last <b>{formatDuration(node.range)}</b> {node.step ? <>every <b>{formatDuration(node.step)}</b></> : 'at the default evaluation interval'}<Shift {...node} />.</p>
        </Card>
      );
    case 'aggregation':
      return (
        <Card title="Aggregation">
          <p><code>{node.op}</code>: {about(aggregateOpTerms, node.op)}</p>
          <p>
            {node.without
              ? <>Series are put together that agree in all labels but <Names of={node.grouping} />.</>
              : node.grouping.length ? <>Series are put together that agree in <Names of={node.grouping} />; all other labels go.</> : 'All series are put together into one without labels.'}
          </p>
        </Card>
      );
    case 'call':
      return (
        <Card title="Function call">
          <p><code>{node.func.name}({node.func.argTypes.join(', ')})</code> gives {node.func.returnType === 'scalar' ? 'a scalar' : `a${/^[aeiou]/.test(node.func.returnType) ? 'n' : ''} ${node.func.returnType}`}: {about(functionIdentifierTerms, node.func.name)}</p>
          <p><a href={`https://prometheus.io/docs/prometheus/latest/querying/functions/#${node.func.name}`} target="_blank" rel="noreferrer">Documentation of {node.func.name}()</a></p>
        </Card>
      );
    case 'binaryExpr':
      return (
        <Card title="Binary operator">
          <p><Operator op={node.op} bool={node.bool} /></p>
          {node.matching && <><p><MatchingText matching={node.matching} /></p><Sides expr={expr} time={time} matching={node.matching} op={node.op} /></>}
        </Card>
      );
    case 'unaryExpr':
      return <Card title="Sign"><p>{node.op === '-' ? 'Changes the sign of every value.' : 'Changes nothing.'}</p></Card>;
    case 'numberLiteral':
    case 'stringLiteral':
      return <Card title={node.type === 'numberLiteral' ? 'Number' : 'String'}><p>The value <code>{node.type === 'stringLiteral' ? quote(node.val) : node.val}</code>.</p></Card>;
    case 'parenExpr':
      return <Card title="Parentheses"><p>What stands in them is evaluated first.</p></Card>;
    default:
      return <Notice kind="info">There is no explanation of this part.</Notice>;
  }
}

/** The PromQL package's own sentence about a function or an operator. */
function about(terms: { label: string; info?: unknown }[], name: string): string {
  const info = terms.find((t) => t.label === name)?.info;
  return typeof info === 'string' ? `${info}.` : '';
}

function Names({ of }: { of: string[] }): ComponentChildren {
  return of.map((name, i) => <span key={name}>{i > 0 && ', '}<code>{labelName(name)}</code></span>);
}

/** How `offset` and `@` move the time that is looked at. */
function Shift({ offset, timestamp, startOrEnd }: { offset: number; timestamp: number | null; startOrEnd: 'start' | 'end' | null }) {
  return (
    <>
      {timestamp !== null && <>, as of <b>{formatTime(timestamp)}</b></>}
      {startOrEnd !== null && <>, as of the <b>{startOrEnd}</b> of the query's range</>}
      {offset !== 0 && <>, moved by <b>{formatDuration(Math.abs(offset))}</b> into the {offset > 0 ? 'past' : 'future'}</>}
    </>
  );
}

const MATCHER_WORDS = { '=': 'is', '!=': 'is not', '=~': 'matches in full', '!~': 'does not match in full' };

function Matchers({ of }: { of: Matcher[] }) {
  const rows = of.map(({ name, type, value }): [string, ComponentChildren] => [name === '__name__' ? 'metric name' : name, <>{MATCHER_WORDS[type]} <code>{quote(value)}</code></>]);
  return <Facts rows={rows} />;
}

const COMPARISONS = new Set(['==', '!=', '<', '>', '<=', '>=']);
const SETS: Record<string, string> = {
  and: 'Keeps the series of the left side that have a partner on the right side.',
  or: 'Keeps all series of the left side, and those of the right side that have no partner there.',
  unless: 'Keeps the series of the left side that have no partner on the right side.',
};

function Operator({ op, bool }: { op: string; bool: boolean }) {
  if (SETS[op]) return <><code>{op}</code>: {SETS[op]}</>;
  if (!COMPARISONS.has(op)) return <><code>{op}</code> computes a value from both sides; the metric name goes.</>;
  return bool ? <><code>{op} bool</code> gives 1 where the comparison holds and 0 where it does not.</> : <><code>{op}</code> keeps what the comparison holds for, and drops the rest.</>;
}

const CARDINALITIES: Record<Matching['card'], string> = {
  'one-to-one': 'each series has one partner at most',
  'many-to-one': 'many series of the left side may share a partner (group_left)',
  'one-to-many': 'many series of the right side may share a partner (group_right)',
  'many-to-many': 'any number of series may be partners',
};

function MatchingText({ matching: { card, labels, on, include } }: { matching: Matching }) {
  return (
    <>
      Partners are series that agree in {on ? (labels.length ? <Names of={labels} /> : 'nothing in particular: all of them') : labels.length ? <>all labels but <Names of={labels} /> and the metric name</> : 'all labels but the metric name'}; {CARDINALITIES[card]}.
      {include.length > 0 && <> <Names of={include} /> {include.length > 1 ? 'are' : 'is'} taken over from the side that has one.</>}
    </>
  );
}

/** Both sides of a vector operator with which series find each other. */
function Sides({ expr, time, matching, op }: { expr: string; time?: number; matching: Matching; op: string }) {
  const [left, right] = partsOf(expr)[0]?.children ?? [];
  return left && right ? <MatchedGroups left={left.text} right={right.text} time={time} matching={matching} op={op} /> : null;
}

