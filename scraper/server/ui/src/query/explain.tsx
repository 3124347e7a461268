// The syntax tree of an expression, and how many series each node gives.
import { useEffect, useState } from 'preact/hooks';
import { api } from '../api';
import { Load } from '../parts';
import { useApi } from '../use';

interface Node {
  type: string;
  [key: string]: unknown;
}

function childrenOf(node: Node): Node[] {
  const found: Node[] = [];
  for (const key of ['expr', 'param', 'lhs', 'rhs']) {
    const child = node[key] as Node | null | undefined;
    if (child && typeof child === 'object' && 'type' in child) found.push(child);
  }
  if (Array.isArray(node.args)) found.push(...(node.args as Node[]));
  return found;
}

function title(node: Node): string {
  const name = (key: string) => (typeof node[key] === 'string' ? (node[key] as string) : '');
  switch (node.type) {
    case 'call': return `${(node.func as { name: string }).name}()`;
    case 'aggregation': return `${name('op')} ${(node.grouping as string[])?.length ? `${node.without ? 'without' : 'by'} (${(node.grouping as string[]).join(', ')})` : ''}`;
    case 'binaryExpr': return `binary ${name('op')}`;
    case 'unaryExpr': return `unary ${name('op')}`;
    case 'numberLiteral': return name('val');
    case 'stringLiteral': return JSON.stringify(node.val);
    case 'parenExpr': return '( … )';
    default: {
      const matchers = ((node.matchers as { name: string; type: string; value: string }[]) ?? []).filter((m) => m.name !== '__name__');
      const range = node.range ? `[${Number(node.range) / 1000}s]` : '';
      return `${name('name')}${matchers.length ? `{${matchers.map((m) => `${m.name}${m.type}"${m.value}"`).join(', ')}}` : ''}${range} — ${node.type}`;
    }
  }
}

/** The text of a node that can stand alone as an instant query. */
function selectorText(node: Node): string | undefined {
  if (node.type !== 'vectorSelector' && node.type !== 'matrixSelector') return undefined;
  const matchers = node.matchers as { name: string; type: string; value: string }[];
  return `{${matchers.map((m) => `${JSON.stringify(m.name)}${m.type}${JSON.stringify(m.value)}`).join(',')}}`;
}

function Tree({ node, depth }: { node: Node; depth: number }) {
  const text = selectorText(node);
  return (
    <li>
      <span class="node">{title(node)}</span> {text && <Count query={text} />}
      {depth < 60 && childrenOf(node).length > 0 && (
        <ul>{childrenOf(node).map((child, i) => <Tree key={i} node={child} depth={depth + 1} />)}</ul>
      )}
    </li>
  );
}

function Count({ query }: { query: string }) {
  const [count, setCount] = useState('…');
  useEffect(() => {
    const abort = new AbortController();
    api<{ result: { value: [number, string] }[] }>('query', { query: `count(${query})` }, abort.signal)
      .then(({ data }) => setCount(`${data.result[0]?.value[1] ?? 0} series`))
      .catch((e: Error) => setCount(e.message));
    return () => abort.abort();
  }, [query]);
  return <span class="chip">{count}</span>;
}

export function Explain({ expr }: { expr: string }) {
  const tree = useApi<Node>('parse_query', { query: expr });
  return <Load from={tree}>{(node) => <ul class="tree"><Tree node={node} depth={0} /></ul>}</Load>;
}
