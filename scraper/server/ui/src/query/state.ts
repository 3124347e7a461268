// What a query page shows, and how it stands in the URL: the same parameters as Prometheus's own page (g0.expr,
// g0.tab, g0.range_input, …), those of its older page included, so that links work in both.

import { formatDuration, parseDuration } from '../time';

export const TABS = ['table', 'graph', 'explain', 'trace'] as const;
export type Tab = (typeof TABS)[number];

export const DENSITIES = ['low', 'medium', 'high'] as const;
export type Density = (typeof DENSITIES)[number];

/** Steps are in milliseconds. `fixed` is one of the list, `custom` one that was typed. */
export type Resolution = { type: 'auto'; density: Density } | { type: 'fixed' | 'custom'; step: number };

export interface PanelState {
  id: number;
  expr: string;
  showTree: boolean;
  tab: Tab;
  /** Milliseconds. */
  range: number;
  /** Milliseconds since the epoch; undefined: now. */
  end?: number;
  resolution: Resolution;
  stacked: boolean;
  exemplars: boolean;
  /** Where the value axis begins; undefined: at the smallest value. */
  yMin?: number;
}

/** A link that somebody made by hand cannot ask for more. */
const MOST_PANELS = 100;

let ids = 0;

export function newPanel(): PanelState {
  return { id: ids++, expr: '', showTree: false, tab: 'table', range: 36e5, resolution: { type: 'auto', density: 'medium' }, stacked: false, exemplars: false };
}

export function withExpr(expr: string): PanelState {
  return { ...newPanel(), expr };
}

export function copyOf(panel: PanelState): PanelState {
  return { ...panel, id: ids++ };
}

function parseTime(text: string): number | undefined {
  const ms = Date.parse(`${text.trim().replace(' ', 'T')}Z`);
  return Number.isNaN(ms) ? undefined : ms;
}

function parseResolution(type: string, density: string, step: number): Resolution | undefined {
  if (type === 'auto') return DENSITIES.includes(density as Density) ? { type, density: density as Density } : undefined;
  if (type === 'fixed' || type === 'custom') return step > 0 ? { type, step: step * 1000 } : undefined;
  return undefined;
}

export function fromUrl(search: string): PanelState[] {
  const params = new URLSearchParams(search);
  const panels: PanelState[] = [];
  for (let i = 0; params.has(`g${i}.expr`) && i < MOST_PANELS; i++) {
    const get = (key: string) => params.get(`g${i}.${key}`) ?? '';
    const panel = withExpr(get('expr'));
    const tab = get('tab');
    panel.tab = tab === '0' ? 'graph' : (TABS.find((t) => t === tab) ?? 'table');
    panel.showTree = get('show_tree') === '1';
    panel.range = parseDuration(get('range_input')) ?? panel.range;
    panel.end = parseTime(get('moment_input') || get('end_input'));
    const oldStep = Number(get('step_input'));
    if (oldStep > 0) panel.resolution = { type: 'custom', step: oldStep * 1000 };
    panel.resolution = parseResolution(get('res_type'), get('res_density'), Number(get('res_step'))) ?? panel.resolution;
    panel.stacked = get('display_mode') === 'stacked' || get('stacked') === '1';
    panel.exemplars = get('show_exemplars') === '1';
    const yMin = parseFloat(get('y_axis_min'));
    panel.yMin = Number.isNaN(yMin) ? undefined : yMin;
    panels.push(panel);
  }
  return panels.length ? panels : [newPanel()];
}

export function toUrl(panels: PanelState[]): string {
  const params = new URLSearchParams();
  panels.forEach((panel, i) => {
    const set = (key: string, value: string) => params.set(`g${i}.${key}`, value);
    set('expr', panel.expr);
    set('show_tree', panel.showTree ? '1' : '0');
    set('tab', panel.tab);
    if (panel.end !== undefined) {
      const end = new Date(panel.end).toISOString().slice(0, 19).replace('T', ' ');
      set('end_input', end);
      set('moment_input', end);
    }
    set('range_input', formatDuration(panel.range));
    set('res_type', panel.resolution.type);
    if (panel.resolution.type === 'auto') set('res_density', panel.resolution.density);
    else set('res_step', String(panel.resolution.step / 1000));
    set('display_mode', panel.stacked ? 'stacked' : 'lines');
    if (panel.yMin !== undefined) set('y_axis_min', String(panel.yMin));
    set('show_exemplars', panel.exemplars ? '1' : '0');
  });
  return `?${params}`;
}

const POINTS: Record<Density, number> = { low: 100, medium: 250, high: 750 };

/** Milliseconds between points; by density in whole seconds, and a second at least. */
export function stepOf(resolution: Resolution, range: number): number {
  if (resolution.type !== 'auto') return resolution.step;
  return Math.max(1000, Math.floor(range / POINTS[resolution.density] / 1000) * 1000);
}
