// A scrape pool that opens, as the pages of targets and of discovery have it.
import type { ComponentChildren } from 'preact';
import { useState } from 'preact/hooks';
import { Load } from '../parts/parts';
import { Yaml } from '../parts/yaml';
import { useApi } from '../use';

interface Props {
  name: string;
  badges: ComponentChildren;
  /** Of the whole: colours the edge. */
  health: 'up' | 'down' | 'mixed' | 'unknown';
  open: boolean;
  onToggle: (open: boolean) => void;
  children: () => ComponentChildren;
}

export function Pool({ name, badges, health, open, onToggle, children }: Props) {
  const [config, setConfig] = useState(false);
  return (
    <section class={`pool ${health}`} aria-label={`Pool ${name}`}>
      <h2>
        <button class="pool-title" aria-expanded={open} onClick={() => onToggle(!open)}><span class="caret" /> {name}</button>
        <button class="link small" aria-expanded={config} onClick={() => setConfig(!config)}>{config ? 'Hide' : 'Show'} configuration</button>
        <span class="grow" />
        {badges}
      </h2>
      {config && <PoolConfig name={name} />}
      {open && children()}
    </section>
  );
}

/** Which pool is shown; the empty name stands for all. */
export function PoolSelect({ names, value, onPick }: { names: string[]; value: string; onPick: (name: string) => void }) {
  return (
    <select aria-label="Scrape pool" value={value} onChange={(e) => onPick(e.currentTarget.value)}>
      <option value="">All pools</option>
      {names.map((name) => <option key={name} value={name}>{name}</option>)}
    </select>
  );
}

function PoolConfig({ name }: { name: string }) {
  const config = useApi<{ yaml: string }>('scrape_pools/config', { scrapePool: name });
  return <Load from={config}>{({ yaml }) => <Yaml text={yaml} />}</Load>;
}

/** Which pools are open: above twenty, only those that were opened by hand. */
export function useOpenPools(names: string[]) {
  const [changed, setChanged] = useState<Record<string, boolean>>({});
  const isOpen = (name: string) => changed[name] ?? names.length <= 20;
  const setAll = (open: boolean) => setChanged(Object.fromEntries(names.map((name) => [name, open])));
  return { isOpen, toggle: (name: string, open: boolean) => setChanged((old) => ({ ...old, [name]: open })), setAll, anyOpen: names.some(isOpen) };
}

/** How many rows a pool shows at first, so that the page stays small whatever the number of pools. */
export function firstRows(pools: number): number {
  return Math.max(10, Math.floor(400 / Math.max(1, Math.min(pools, 20))));
}
