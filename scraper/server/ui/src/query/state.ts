// What a query page shows, and how it stands in the URL: the same parameters as Prometheus's own page (g0.expr,
// g0.tab, g0.range_input, …), so that links work in both.

import { formatDuration, parseDuration } from '../time';

export interface PanelState {
  id: number;
  expr: string;
  tab: 'table' | 'graph' | 'explain';
  /** Milliseconds. */
  range: number;
  /** Milliseconds since the epoch; undefined: now. */
  end?: number;
  /** Milliseconds; undefined: chosen by the range. */
  step?: number;
  stacked: boolean;
  exemplars: boolean;
}

let ids = 0;

export function newPanel(expr = ''): PanelState {
  return { id: ids++, expr, tab: 'table', range: 36e5, stacked: false, exemplars: false };
}

export function fromUrl(search: string): PanelState[] {
  const params = new URLSearchParams(search);
  const panels: PanelState[] = [];
  for (let i = 0; params.has(`g${i}.expr`) && i < 100; i++) {
    const get = (key: string) => params.get(`g${i}.${key}`) ?? '';
    const panel = newPanel(get('expr'));
    const tab = get('tab');
    panel.tab = tab === 'graph' || tab === '0' ? 'graph' : tab === 'explain' ? 'explain' : 'table';
    panel.range = parseDuration(get('range_input')) ?? panel.range;
    const end = Date.parse(`${(get('end_input') || get('moment_input')).replace(' ', 'T')}Z`);
    panel.end = Number.isNaN(end) ? undefined : end;
    const step = get('res_step') || get('step_input');
    panel.step = step && Number(step) > 0 ? Number(step) * 1000 : undefined;
    panel.stacked = get('display_mode') === 'stacked' || get('stacked') === '1';
    panel.exemplars = get('show_exemplars') === '1';
    panels.push(panel);
  }
  return panels.length ? panels : [newPanel()];
}

export function toUrl(panels: PanelState[]): string {
  const params = new URLSearchParams();
  panels.forEach((panel, i) => {
    const set = (key: string, value: string) => params.set(`g${i}.${key}`, value);
    set('expr', panel.expr);
    set('tab', panel.tab);
    if (panel.end !== undefined) set(panel.tab === 'graph' ? 'end_input' : 'moment_input', new Date(panel.end).toISOString().slice(0, 19).replace('T', ' '));
    set('range_input', formatDuration(panel.range));
    if (panel.step) {
      set('res_type', 'fixed');
      set('res_step', String(panel.step / 1000));
    }
    set('display_mode', panel.stacked ? 'stacked' : 'lines');
    set('show_exemplars', panel.exemplars ? '1' : '0');
  });
  return `?${params}`;
}

/** The step that gives about 250 points, in whole seconds from one second on. */
export function autoStep(range: number): number {
  const step = range / 250;
  return step >= 1000 ? Math.round(step / 1000) * 1000 : Math.max(1, Math.round(step));
}
