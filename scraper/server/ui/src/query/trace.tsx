// What the server did to answer, step by step, and how long each took.
import { useEffect, useState } from 'preact/hooks';
import { Empty, Load } from '../parts/parts';
import { humanSpan } from '../time';
import type { TraceStep } from '../types';
import { useTrace } from './answer';
import { WindowControls } from './controls';
import { type PanelState } from './state';

interface Props {
  state: PanelState;
  expr: string;
  onChange: (change: Partial<PanelState>) => void;
}

export function Trace({ state, expr, onChange }: Props) {
  const [moment, setMoment] = useState(false);
  const traced = useTrace(state, expr, moment);
  return (
    <>
      <div class="controls">
        <WindowControls state={state} moment={moment} onChange={onChange} />
        <span class="grow" />
        <span class="group" role="group" aria-label="Kind of query">
          <button aria-pressed={!moment} onClick={() => setMoment(false)}>Over the range</button>
          <button aria-pressed={moment} onClick={() => setMoment(true)}>At one time</button>
        </span>
      </div>
      {expr.trim() ? <Load from={traced}>{(root) => <Steps root={root} />}</Load> : <Empty title="Nothing to trace yet.">Enter an expression above.</Empty>}
    </>
  );
}

function Steps({ root }: { root: TraceStep }) {
  // What takes next to nothing is folded up with what lies below it.
  const [all, setAll] = useState(false);
  useEffect(() => setAll(false), [root]);
  const least = all ? 0 : root.duration_msec / 200;
  const left = count(root) - count(root, least);
  return (
    <>
      <ul class="tree trace" aria-label="Steps"><Step step={root} of={root.duration_msec} least={least} /></ul>
      {left > 0 && <p class="more">{left} step{left === 1 ? '' : 's'} of less than {humanSpan(least)} {left === 1 ? 'is' : 'are'} not shown. <button class="small" onClick={() => setAll(true)}>Show all</button></p>}
    </>
  );
}

/** The steps that took that long, with the one itself. The server bounds their depth. */
function count(step: TraceStep, least = 0): number {
  return (step.children ?? []).filter((s) => s.duration_msec >= least).reduce((n, s) => n + count(s, least), 1);
}

function Step({ step, of, least }: { step: TraceStep; of: number; least: number }) {
  const children = (step.children ?? []).filter((s) => s.duration_msec >= least);
  return (
    <li>
      <span class="step">
        <span class="share" aria-hidden="true"><span style={{ width: `${of > 0 ? Math.min(100, (100 * step.duration_msec) / of) : 0}%` }} /></span>
        <span class="took">{humanSpan(step.duration_msec)}</span> <span class="what">{step.message}</span>
      </span>
      {children.length > 0 && <ul>{children.map((child, i) => <Step key={i} step={child} of={of} least={least} />)}</ul>}
    </li>
  );
}
