// Metrics explorer: every metric name with its type and help, searchable.
import { useMemo, useState } from 'preact/hooks';
import { Load } from '../parts';
import { useApi } from '../use';

type MetadataByName = Record<string, { type: string; help: string; unit: string }[]>;

export function Explorer({ onPick, onClose }: { onPick: (name: string) => void; onClose: () => void }) {
  const names = useApi<string[]>('label/__name__/values');
  const metadata = useApi<MetadataByName>('metadata');
  const [search, setSearch] = useState('');
  return (
    <dialog open class="explorer" aria-label="Metrics explorer" onKeyDown={(e) => e.key === 'Escape' && onClose()}>
      <header>
        <input autofocus type="search" placeholder="Search metrics by name or help" value={search} onInput={(e) => setSearch(e.currentTarget.value)} />
        <button onClick={onClose}>Close</button>
      </header>
      <Load from={names}>{(all) => <Names all={all} metadata={metadata.data ?? {}} search={search} onPick={onPick} />}</Load>
    </dialog>
  );
}

function Names({ all, metadata, search, onPick }: { all: string[]; metadata: MetadataByName; search: string; onPick: (name: string) => void }) {
  const found = useMemo(() => {
    const words = search.toLowerCase().split(/\s+/).filter(Boolean);
    return all.filter((name) => {
      const text = `${name} ${metadata[name]?.[0]?.help ?? ''}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
  }, [all, metadata, search]);
  return (
    <>
      <p class="muted">{found.length} of {all.length} metrics</p>
      <table class="result">
        <tbody>
          {found.slice(0, 500).map((name) => (
            <tr key={name}>
              <td><button class="link" onClick={() => onPick(name)}>{name}</button></td>
              <td class="muted">{metadata[name]?.[0]?.type}</td>
              <td>{metadata[name]?.[0]?.help}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </>
  );
}
