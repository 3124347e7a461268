// Metrics explorer: every metric name with its type and help, searchable; one opened shows its labels.
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import type { Metric } from '../api';
import { Load } from '../parts';
import { useApi } from '../use';

type MetadataByName = Record<string, { type: string; help: string; unit: string }[]>;

/** Most series that are looked at for a metric's labels. */
const SAMPLE = 2000;

/** Of the metric itself, or of the family that it is a part of. */
function metadataOf(name: string, metadata: MetadataByName) {
  return (metadata[name] ?? metadata[name.replace(/_(total|bucket|count|sum|created|info)$/, '')])?.[0];
}

export function Explorer({ onPick, onClose }: { onPick: (expr: string) => void; onClose: () => void }) {
  const names = useApi<string[]>('label/__name__/values');
  const metadata = useApi<MetadataByName>('metadata');
  const [search, setSearch] = useState('');
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog ref={dialog} class="explorer" aria-label="Metrics explorer" onClose={onClose} onClick={(e) => e.target === dialog.current && onClose()}>
      <header>
        <input autofocus type="search" placeholder="Search metrics by name or help" value={search} onInput={(e) => setSearch(e.currentTarget.value)} />
        <button onClick={onClose}>Close</button>
      </header>
      <Load from={names}>{(all) => <Names all={all} metadata={metadata.data ?? {}} search={search} onPick={onPick} />}</Load>
    </dialog>
  );
}

function Names({ all, metadata, search, onPick }: { all: string[]; metadata: MetadataByName; search: string; onPick: (name: string) => void }) {
  const [opened, setOpened] = useState<string>();
  const found = useMemo(() => {
    const words = search.toLowerCase().split(/\s+/).filter(Boolean);
    return all.filter((name) => {
      const text = `${name} ${metadataOf(name, metadata)?.help ?? ''}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
  }, [all, metadata, search]);
  return (
    <>
      <p class="muted">{found.length > 500 ? `The first 500 of ${found.length}` : found.length} of {all.length} metrics</p>
      <table class="result">
        <tbody>
          {found.slice(0, 500).map((name) => (
            <tr key={name}>
              <td>
                <button class="link" onClick={() => onPick(plain(name) ? name : `{${JSON.stringify(name)}}`)}>{name}</button>
                {opened === name && <LabelsOf name={name} onPick={onPick} />}
              </td>
              <td class="muted nowrap">{metadataOf(name, metadata)?.type}</td>
              <td>{metadataOf(name, metadata)?.help}</td>
              <td class="nowrap"><button class="small" aria-expanded={opened === name} aria-label={`Labels of ${name}`} onClick={() => setOpened(opened === name ? undefined : name)}>labels</button></td>
            </tr>
          ))}
        </tbody>
      </table>
    </>
  );
}

/** Whether a name can stand in an expression without quotes. */
function plain(name: string): boolean {
  return /^[a-zA-Z_:][a-zA-Z0-9_:]*$/.test(name);
}

/** The labels of one metric with their values, each of which can be picked. */
function LabelsOf({ name, onPick }: { name: string; onPick: (expr: string) => void }) {
  const series = useApi<Metric[]>('series', { 'match[]': `{__name__=${JSON.stringify(name)}}`, limit: String(SAMPLE) });
  return (
    <Load from={series}>
      {(metrics) => {
        const values = new Map<string, Map<string, number>>();
        for (const metric of metrics)
          for (const [label, value] of Object.entries(metric)) {
            if (label === '__name__') continue;
            const counts = values.get(label) ?? values.set(label, new Map()).get(label)!;
            counts.set(value, (counts.get(value) ?? 0) + 1);
          }
        return (
          <div class="labels-of">
            <p class="muted small">{metrics.length >= SAMPLE ? `the first ${SAMPLE}` : metrics.length} series</p>
            {[...values].sort().map(([label, counts]) => (
              <div key={label}>
                <i>{plain(label) ? label : JSON.stringify(label)}</i> <span class="muted small">{counts.size} values</span>{' '}
                {[...counts].sort((a, b) => b[1] - a[1]).slice(0, 10).map(([value, count]) => (
                  <button key={value} class="chip" title={`${count} series`}
                    onClick={() => onPick(`{__name__=${JSON.stringify(name)}, ${plain(label) ? label : JSON.stringify(label)}=${JSON.stringify(value)}}`)}>
                    {value || '""'}
                  </button>
                ))}
                {counts.size > 10 && <span class="muted small"> …</span>}
              </div>
            ))}
          </div>
        );
      }}
    </Load>
  );
}
