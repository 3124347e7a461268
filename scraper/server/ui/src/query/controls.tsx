// Which span of time a panel shows, how densely, and how it is drawn.
import { Icon } from '../parts/icons';
import { Menu } from '../parts/menu';
import { IconButton } from '../parts/parts';
import { formatDuration, parseDuration } from '../time';
import { DENSITIES, type Density, type PanelState, type Resolution, stepOf } from './state';
import { TimeInput } from './time-input';

type Change = (change: Partial<PanelState>) => void;

const RANGES = ['1s', '10s', '1m', '5m', '15m', '30m', '1h', '2h', '6h', '12h', '1d', '2d', '1w', '2w', '4w', '8w', '16w', '26w', '1y', '2y'].map((r) => parseDuration(r)!);

/** A field for a duration, which goes back to what it was where the text is none. */
function DurationInput({ name, value, onChange }: { name: string; value: number; onChange: (ms: number) => void }) {
  const typed = (field: HTMLInputElement) => {
    const ms = parseDuration(field.value.trim());
    if (ms === undefined) field.value = formatDuration(value);
    else if (ms !== value) onChange(ms);
  };
  return <input type="text" key={value} size={5} aria-label={name} defaultValue={formatDuration(value)} onChange={(e) => typed(e.currentTarget)} onKeyDown={(e) => e.key === 'Enter' && typed(e.currentTarget)} />;
}

function RangeInput({ range, onChange }: { range: number; onChange: Change }) {
  const shorter = [...RANGES].reverse().find((r) => r < range);
  const longer = RANGES.find((r) => r > range);
  return (
    <span class="group" role="group" aria-label="Range">
      <IconButton icon="minus" title="Shorter range" disabled={!shorter} onClick={() => onChange({ range: shorter })} />
      <DurationInput name="Range" value={range} onChange={(ms) => onChange({ range: ms })} />
      <IconButton icon="plus" title="Longer range" disabled={!longer} onClick={() => onChange({ range: longer })} />
    </span>
  );
}

/** The time that a panel looks at, with buttons that move it by half the range. */
export function MomentInput({ state, onChange }: { state: PanelState; onChange: Change }) {
  const name = state.tab === 'graph' ? 'End time' : 'Evaluation time';
  const end = state.end ?? Date.now();
  const by = state.range / 2;
  return (
    <span class="group" role="group" aria-label={name}>
      <IconButton icon="left" title={`Earlier by ${formatDuration(by)}`} onClick={() => onChange({ end: end - by })} />
      <TimeInput name={name} value={state.end} none={`${name} (now)`} onChange={(ms) => onChange({ end: ms })} />
      <IconButton icon="right" title={`Later by ${formatDuration(by)}`} disabled={state.end === undefined} onClick={() => onChange({ end: end + by >= Date.now() ? undefined : end + by })} />
    </span>
  );
}

const STEPS = ['10s', '30s', '1m', '5m', '15m', '1h'].map((s) => parseDuration(s)!);

function ResolutionInput({ resolution, range, onChange }: { resolution: Resolution; range: number; onChange: Change }) {
  const picked = resolution.type === 'auto' ? resolution.density : resolution.type === 'fixed' && STEPS.includes(resolution.step) ? String(resolution.step) : 'custom';
  const pick = (value: string): Resolution => {
    if (DENSITIES.includes(value as Density)) return { type: 'auto', density: value as Density };
    return value === 'custom' ? { type: 'custom', step: stepOf(resolution, range) } : { type: 'fixed', step: Number(value) };
  };
  return (
    <span class="group">
      <select aria-label="Resolution" value={picked} onChange={(e) => onChange({ resolution: pick(e.currentTarget.value) })}>
        <optgroup label="Automatic resolution">{DENSITIES.map((d) => <option key={d} value={d}>{d[0]!.toUpperCase() + d.slice(1)} res.</option>)}</optgroup>
        <optgroup label="Fixed resolution">{STEPS.map((s) => <option key={s} value={String(s)}>Every {formatDuration(s)}</option>)}</optgroup>
        <optgroup label="Custom resolution"><option value="custom">Every…</option></optgroup>
      </select>
      {picked === 'custom' && <DurationInput name="Step" value={stepOf(resolution, range)} onChange={(step) => onChange({ resolution: { type: 'custom', step } })} />}
    </span>
  );
}

/** The span of time that a query is about, or its one moment. */
export function WindowControls({ state, moment, onChange }: { state: PanelState; moment: boolean; onChange: Change }) {
  return (
    <>
      {!moment && <RangeInput range={state.range} onChange={onChange} />}
      <MomentInput state={state} onChange={onChange} />
      {!moment && <ResolutionInput resolution={state.resolution} range={state.range} onChange={onChange} />}
    </>
  );
}

export function GraphControls({ state, onChange }: { state: PanelState; onChange: Change }) {
  return (
    <div class="controls">
      <WindowControls state={state} moment={false} onChange={onChange} />
      <span class="grow" />
      <span class="group" role="group" aria-label="Drawing">
        <button aria-pressed={!state.stacked} onClick={() => onChange({ stacked: false })}>Lines</button>
        <button aria-pressed={state.stacked} onClick={() => onChange({ stacked: true })}>Stacked</button>
      </span>
      <Menu label={<Icon name="gear" />} title="Graph settings" class="to-left">
        {() => (
          <fieldset>
            <legend>Graph</legend>
            <label><input type="checkbox" checked={state.exemplars} onChange={(e) => onChange({ exemplars: e.currentTarget.checked })} /> Show exemplars</label>
            <label><input type="checkbox" checked={state.yMin !== undefined} onChange={(e) => onChange({ yMin: e.currentTarget.checked ? 0 : undefined })} /> Start the value axis at 0</label>
          </fieldset>
        )}
      </Menu>
    </div>
  );
}
