// YAML with its keys, strings, numbers and comments coloured.
import type { ComponentChildren } from 'preact';

function line(text: string): ComponentChildren {
  const comment = /^\s*#/.test(text);
  if (comment) return <span class="y-comment">{text}</span>;
  const parts = /^(\s*(?:- )*)((?:"[^"]*"|[\w./-]+):)?(\s*)(.*)$/.exec(text);
  if (!parts) return text;
  const [, indent, key, space, value] = parts as unknown as [string, string, string | undefined, string, string];
  const kind = /^-?\d+(\.\d+)?$|^(true|false|null)$/.test(value) ? 'y-number' : value === '<secret>' ? 'y-secret' : 'y-string';
  return <>{indent}{key && <span class="y-key">{key}</span>}{space}{value && <span class={kind}>{value}</span>}</>;
}

/** Documents above this many lines stay plain: colour is not worth a slow page. */
const MOST_LINES = 5000;

export function Yaml({ text }: { text: string }) {
  const lines = text.split('\n');
  return <pre class="yaml" tabIndex={0}>{lines.length > MOST_LINES ? text : lines.map((l, i) => <span key={i}>{line(l)}{'\n'}</span>)}</pre>;
}
