// The expression editor: CodeMirror with Prometheus's own PromQL package (completion from the server, linting).
import { useEffect, useRef } from 'preact/hooks';
import { EditorView, keymap, placeholder } from '@codemirror/view';
import { EditorState, Prec } from '@codemirror/state';
import { HighlightStyle, bracketMatching, syntaxHighlighting } from '@codemirror/language';
import { autocompletion, closeBrackets, closeBracketsKeymap, completionKeymap } from '@codemirror/autocomplete';
import { defaultKeymap, history, historyKeymap, insertNewlineAndIndent } from '@codemirror/commands';
import { lintKeymap } from '@codemirror/lint';
import { tags } from '@lezer/highlight';
import { PromQLExtension } from '@prometheus-io/codemirror-promql';
import { base } from '../api';

const colours = HighlightStyle.define([
  { tag: tags.number, color: 'var(--number)' },
  { tag: tags.string, color: 'var(--string)' },
  { tag: tags.keyword, color: 'var(--keyword)', fontWeight: 'bold' },
  { tag: tags.function(tags.variableName), color: 'var(--function)' },
  { tag: tags.labelName, color: 'var(--label)' },
  { tag: tags.operator, color: 'var(--muted)' },
  { tag: tags.modifier, color: 'var(--keyword)' },
  { tag: tags.comment, color: 'var(--muted)', fontStyle: 'italic' },
  { tag: tags.invalid, color: 'var(--bad)' },
]);

const promql = new PromQLExtension()
  .activateCompletion(true)
  .activateLinter(true)
  .setComplete({ remote: { url: base || location.origin } });

interface Props {
  value: string;
  /** Counts up when `value` was changed by something else than typing. */
  revision: number;
  onChange: (value: string) => void;
  onRun: () => void;
}

export function Editor({ value, revision, onChange, onRun }: Props) {
  const host = useRef<HTMLDivElement>(null);
  const view = useRef<EditorView | null>(null);
  const calls = useRef({ onChange, onRun });
  calls.current = { onChange, onRun };

  useEffect(() => {
    const run = () => (calls.current.onRun(), true);
    view.current = new EditorView({
      parent: host.current!,
      state: EditorState.create({
        doc: value,
        extensions: [
          history(),
          bracketMatching(),
          closeBrackets(),
          autocompletion(),
          syntaxHighlighting(colours),
          EditorView.lineWrapping,
          EditorView.contentAttributes.of({ 'aria-label': 'PromQL expression' }),
          placeholder('Expression (Enter runs it, Shift+Enter begins a line)'),
          promql.asExtension(),
          Prec.high(keymap.of([{ key: 'Mod-Enter', run }, { key: 'Shift-Enter', run: insertNewlineAndIndent }])),
          keymap.of([...closeBracketsKeymap, ...completionKeymap, { key: 'Enter', run }, ...defaultKeymap, ...historyKeymap, ...lintKeymap]),
          EditorView.updateListener.of((update) => {
            if (update.docChanged) calls.current.onChange(update.state.doc.toString());
          }),
        ],
      }),
    });
    return () => view.current?.destroy();
  }, []);

  // `value` lags behind fast typing, so it is written into the editor only when its owner says that it is new.
  useEffect(() => {
    const current = view.current;
    if (current && revision > 0) current.dispatch({ changes: { from: 0, to: current.state.doc.length, insert: value } });
  }, [revision]);

  return <div class="editor" ref={host} />;
}
