// One expression with its tree, and its result as table or graph, or explained.
import type { ComponentChildren } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';
import { api } from '../api';
import { Icon, type IconName } from '../parts/icons';
import { Menu } from '../parts/menu';
import { Empty, Notice } from '../parts/parts';
import { settings } from '../settings';
import { humanSpan } from '../time';
import { type PanelAnswer, useAnswer } from './answer';
import { GraphControls, MomentInput } from './controls';
import { Cost } from './cost';
import { Editor, type EditorHandle } from './editor';
import { Explain } from './explain';
import { Explorer } from './explorer';
import { Graph } from './graph';
import { forgetAll, readHistory, remember } from './history';
import { type PanelState, TABS, type Tab } from './state';
import { Table } from './table';
import { Trace } from './trace';
import { Tree } from './tree';

interface Props {
  state: PanelState;
  onChange: (state: PanelState) => void;
  onDuplicate: (expr: string) => void;
  onRemove?: () => void;
}

export function Panel({ state, onChange, onDuplicate, onRemove }: Props) {
  const [draft, setDraft] = useState(state.expr);
  const editor = useRef<EditorHandle>(null);
  const [picked, setPicked] = useState<string>();
  const [exploring, setExploring] = useState(false);
  const [formatError, setFormatError] = useState<string>();
  const set = (change: Partial<PanelState>) => onChange({ ...state, ...change });
  const expr = picked ?? state.expr;
  const answer = useAnswer(state, expr);
  const [turn, setTurn] = useState(0);

  useEffect(() => setPicked(undefined), [state.expr, state.showTree]);

  const run = (text = draft) => {
    remember(text);
    setFormatError(undefined);
    answer.ask();
    setTurn((n) => n + 1);
    set({ expr: text });
  };
  const replaceAndRun = (text: string) => {
    editor.current!.replace(text);
    run(text);
  };
  const format = () =>
    api<string>('format_query', { query: draft }).then(
      ({ data }) => (editor.current!.replace(data), setFormatError(undefined)),
      (e: Error) => setFormatError(e.message),
    );

  return (
    <section class="panel card" aria-label="Query panel">
      <div class="bar expression">
        <Editor initial={state.expr} handle={editor} focus={!state.expr} onChange={setDraft} onRun={() => run()} />
        <Execute answer={answer} onRun={() => run()} />
        <HistoryMenu onPick={replaceAndRun} />
        <Menu label={<Icon name="dots" />} title="Query options" class="to-left">
          {() => (
            <>
              <Option icon="search" onClick={() => setExploring(true)}>Explore metrics</Option>
              <Option icon="info" disabled={!draft.trim()} onClick={format}>Format expression</Option>
              <Option icon="tree" onClick={() => set({ showTree: !state.showTree })}>{state.showTree ? 'Hide' : 'Show'} tree view</Option>
              <Option icon="copy" onClick={() => onDuplicate(draft)}>Duplicate query</Option>
              <Option icon="close" disabled={!onRemove} onClick={() => onRemove?.()}>Remove query</Option>
            </>
          )}
        </Menu>
      </div>
      {formatError && <Notice kind="error" title="Not formatted:">{formatError}</Notice>}
      {exploring && <Explorer onClose={() => setExploring(false)} onQuery={replaceAndRun} onInsert={(text) => editor.current!.insert(text)} />}
      {state.showTree && state.expr.trim() && <Tree expr={state.expr} time={state.end} picked={picked} onPick={setPicked} onClose={() => set({ showTree: false })} />}
      <Tabs id={state.id} tab={state.tab} onPick={(tab) => set({ tab })} />
      <div role="tabpanel" id={`panel-${state.id}`} aria-labelledby={`tab-${state.id}-${state.tab}`}>
        {state.tab === 'table' && <div class="controls"><MomentInput state={state} onChange={set} /></div>}
        {state.tab === 'graph' && <GraphControls state={state} onChange={set} />}
        {state.tab === 'explain' && <Explain expr={expr} time={state.end} treeShown={state.showTree} onShowTree={() => set({ showTree: true })} />}
        {state.tab === 'trace' && <Trace key={turn} state={state} expr={expr} onChange={set} />}
        {(state.tab === 'table' || state.tab === 'graph') && (
          <Result state={state} expr={expr} answer={answer} onChange={set} onExplore={() => setExploring(true)} />
        )}
      </div>
    </section>
  );
}

function Option({ icon, disabled, onClick, children }: { icon: IconName; disabled?: boolean; onClick: () => void; children: ComponentChildren }) {
  return <button class="option" data-close disabled={disabled} onClick={onClick}><Icon name={icon} /> {children}</button>;
}

/** Runs the expression; while it runs, says for how long, and ends it. */
function Execute({ answer: { since, cancel }, onRun }: { answer: PanelAnswer; onRun: () => void }) {
  const [now, setNow] = useState(0);
  useEffect(() => {
    if (since === undefined) return;
    setNow(since);
    const timer = setInterval(() => setNow(Date.now()), 200);
    return () => clearInterval(timer);
  }, [since]);
  // Short answers come without a flicker.
  if (since === undefined || now - since < 400) return <button class="primary" aria-busy={since !== undefined} onClick={onRun}>Execute</button>;
  return <button class="primary cancel" onClick={cancel}>Cancel <span class="small">{humanSpan(Math.floor((now - since) / 100) * 100)}</span></button>;
}

function Tabs({ id, tab, onPick }: { id: number; tab: Tab; onPick: (tab: Tab) => void }) {
  const icons = { table: 'table', graph: 'graph', explain: 'info', trace: 'steps' } as const;
  const step = (e: KeyboardEvent) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
    if (!by) return;
    const next = TABS[(TABS.indexOf(tab) + by + TABS.length) % TABS.length]!;
    onPick(next);
    document.getElementById(`tab-${id}-${next}`)?.focus();
  };
  return (
    <div class="tabs" role="tablist" aria-label="Result" onKeyDown={step}>
      {TABS.map((name) => (
        <button key={name} id={`tab-${id}-${name}`} role="tab" aria-selected={tab === name} aria-controls={`panel-${id}`} tabIndex={tab === name ? 0 : -1} onClick={() => onPick(name)}>
          <Icon name={icons[name]} /> {name[0]!.toUpperCase() + name.slice(1)}
        </button>
      ))}
    </div>
  );
}

function Result({ state, expr, answer, onChange, onExplore }: { state: PanelState; expr: string; answer: PanelAnswer; onChange: (change: Partial<PanelState>) => void; onExplore: () => void }) {
  const { warnings, infos } = settings.use();
  const { shown, error, since } = answer;
  if (!expr.trim()) return <Empty title="No data queried yet.">Enter an expression above, or <button class="link" onClick={onExplore}>explore the metrics</button> that are there.</Empty>;
  const failed = error && since === undefined && <Notice kind="error" title="Error executing query:">{error}</Notice>;
  if (failed && !shown) return failed;
  if (!shown) return <p class="skeleton" aria-busy="true">Waiting for the answer…</p>;
  const result = shown.answer.data;
  const empty = Array.isArray(result.result) && result.result.length === 0;
  return (
    <div class={since === undefined ? undefined : 'old'} aria-busy={since !== undefined}>
      {failed}
      {warnings && shown.answer.warnings.map((text) => <Notice key={text} kind="warning">{text}</Notice>)}
      {infos && shown.answer.infos.map((text) => <Notice key={text} kind="info">{text}</Notice>)}
      {shown.instead && <Notice kind="warning">Ranges cannot be drawn: this is the graph of <code>{shown.instead}</code></Notice>}
      <Cost answer={shown.answer} step={shown.step} />
      {empty && <Empty title="Empty query result.">This query returned no data{state.tab === 'graph' ? ' in this range' : ' at this time'}.</Empty>}
      {!empty && shown.tab === 'table' && <Table result={result} />}
      {!empty && shown.tab === 'graph' && result.resultType === 'matrix' && (
        <Graph result={result} start={shown.start} end={shown.end} step={shown.step} stacked={state.stacked} yMin={state.yMin} exemplars={shown.exemplars}
          onZoom={(from, to) => onChange({ end: Math.round(to / 1000) * 1000, range: Math.max(1000, Math.round((to - from) / 1000) * 1000) })} />
      )}
    </div>
  );
}

function HistoryMenu({ onPick }: { onPick: (expr: string) => void }) {
  return (
    <Menu label={<Icon name="history" />} title="History" class="history to-left">
      {() => {
        const list = readHistory();
        return (
          <>
            {list.length === 0 && <p class="muted">{settings.get().history ? 'Nothing was run in this browser yet.' : 'History is switched off in the settings.'}</p>}
            {list.map((expr) => <button key={expr} class="option" data-close onClick={() => onPick(expr)}><code>{expr}</code></button>)}
            {list.length > 0 && <button class="small" data-close onClick={forgetAll}>Forget all</button>}
          </>
        );
      }}
    </Menu>
  );
}
