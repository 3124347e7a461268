// Metrics explorer: every metric name with its type and help, searchable; one opened shows its labels and their values.
import { useMemo, useState } from 'preact/hooks';
import { isPlainName, labelName, matchesWords, quote, selectorOf } from '../labels';
import { Copy, Dialog, Empty, Load, SearchBox, Some } from '../parts/parts';
import type { Metadata, Metric } from '../types';
import { useApi } from '../use';

/** Most series that are looked at for a metric's labels. */
const SAMPLE = 2000;

/** Of the metric itself, or of the family that it is a part of. */
function metadataOf(name: string, metadata: Metadata) {
  return (metadata[name] ?? metadata[name.replace(/_(total|bucket|count|sum|created|info)$/, '')])?.[0];
}

/** What can be done with a selector. */
interface Actions {
  /** In place of the panel's expression, and run. */
  onQuery: (expr: string) => void;
  /** Into the panel's expression, at the cursor. */
  onInsert: (expr: string) => void;
}

export function Explorer({ onClose, ...actions }: Actions & { onClose: () => void }) {
  const names = useApi<string[]>('label/__name__/values');
  const metadata = useApi<Metadata>('metadata');
  const [search, setSearch] = useState('');
  const [opened, setOpened] = useState<string>();
  const closing: Actions = {
    onQuery: (expr) => (onClose(), actions.onQuery(expr)),
    onInsert: (expr) => (onClose(), actions.onInsert(expr)),
  };
  if (opened !== undefined)
    return (
      <Dialog title={opened} class="explorer" onClose={onClose}>
        <button onClick={() => setOpened(undefined)}>← All metrics</button>
        <Opened name={opened} help={metadataOf(opened, metadata.data ?? {})?.help} {...closing} />
      </Dialog>
    );
  return (
    <Dialog title="Metrics explorer" class="explorer" onClose={onClose}>
      <SearchBox placeholder="Search metrics by name or help" value={search} onInput={setSearch} />
      <Load from={names}>{(all) => <Names all={all} metadata={metadata.data ?? {}} search={search} onOpen={setOpened} {...closing} />}</Load>
    </Dialog>
  );
}

function Names({ all, metadata, search, onOpen, onQuery, onInsert }: Actions & { all: string[]; metadata: Metadata; search: string; onOpen: (name: string) => void }) {
  const found = useMemo(() => all.filter((name) => matchesWords(`${name} ${metadataOf(name, metadata)?.help ?? ''}`, search)), [all, metadata, search]);
  if (!all.length) return <Empty title="There are no metrics yet.">They appear with the first scrape; <a href="targets">Target health</a> tells whether one failed.</Empty>;
  if (!found.length) return <Empty title="No metric matches." />;
  return (
    <>
      <p class="muted" aria-live="polite">{found.length} of {all.length} metrics</p>
      <Some key={search} of={found} first={200} noun="metrics">
        {(some) => (
          <table class="list">
            <thead><tr><th>Metric</th><th>Type</th><th>Help</th></tr></thead>
            <tbody>
              {some.map((name) => {
                const about = metadataOf(name, metadata);
                return (
                  <tr key={name}>
                    <td class="metric-name">
                      <button class="link" aria-label={name} title="Query it" onClick={() => onQuery(selectorOf(name))}><code>{name}</code></button>{' '}
                      <button class="small" aria-label={`Labels of ${name}`} onClick={() => onOpen(name)}>labels</button>{' '}
                      <button class="small" aria-label={`Insert ${name}`} title="Insert at the cursor" onClick={() => onInsert(selectorOf(name))}>insert</button>
                    </td>
                    <td class="muted nowrap">{about?.type}</td>
                    <td class="help">{about?.help}</td>
                  </tr>
                );
              })}
            </tbody>
          </table>
        )}
      </Some>
    </>
  );
}

/** By label, its values with the number of series that have them. */
function valuesByLabel(metrics: Metric[]): [string, [string, number][]][] {
  const labels = new Map<string, Map<string, number>>();
  for (const metric of metrics)
    for (const [label, value] of Object.entries(metric)) {
      if (label === '__name__') continue;
      const counts = labels.get(label) ?? labels.set(label, new Map()).get(label)!;
      counts.set(value, (counts.get(value) ?? 0) + 1);
    }
  return [...labels].sort(([a], [b]) => a.localeCompare(b)).map(([label, counts]) => [label, [...counts].sort((a, b) => b[1] - a[1])]);
}

function selectorWith(name: string, picked: Record<string, string>): string {
  const matchers = Object.entries(picked).map(([label, value]) => `${labelName(label)}=${quote(value)}`);
  if (!isPlainName(name)) matchers.unshift(quote(name));
  const braces = matchers.length ? `{${matchers.join(', ')}}` : '';
  return `${isPlainName(name) ? name : ''}${braces}`;
}

/** The labels of one metric; values that are picked narrow the selector, and what is listed of the other labels. */
function Opened({ name, help, onQuery, onInsert }: Actions & { name: string; help?: string }) {
  const [picked, setPicked] = useState<Record<string, string>>({});
  const selector = selectorWith(name, picked);
  const series = useApi<Metric[]>('series', { 'match[]': selector, limit: String(SAMPLE) });
  const toggle = (label: string, value: string) => {
    const { [label]: old, ...others } = picked;
    setPicked(old === value ? others : { ...picked, [label]: value });
  };
  return (
    <>
      {help && <p>{help}</p>}
      <p class="bar picked">
        <code>{selector}</code>
        <button class="primary" onClick={() => onQuery(selector)}>Query this</button>
        <button onClick={() => onInsert(selector)}>Insert at the cursor</button>
        <Copy text={selector} />
      </p>
      <Load from={series}>
        {(metrics) => (
          <>
            <p class="muted">{metrics.length >= SAMPLE ? `At least ${SAMPLE}` : metrics.length} series</p>
            <table class="list labels-of">
              <thead><tr><th>Label</th><th>Values</th></tr></thead>
              <tbody>
                {valuesByLabel(metrics).map(([label, counts]) => (
                  <tr key={label}>
                    <td><code>{label}</code><div class="muted small">{counts.length} {counts.length === 1 ? 'value' : 'values'}</div></td>
                    <td>
                      <Some of={counts} first={10} noun="values">
                        {(some) => (
                          <span class="chips">
                            {some.map(([value, count]) => (
                              <button key={value} class="chip" aria-pressed={picked[label] === value} title={`${count} series`} onClick={() => toggle(label, value)}>{value || '""'}</button>
                            ))}
                          </span>
                        )}
                      </Some>
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          </>
        )}
      </Load>
    </>
  );
}
