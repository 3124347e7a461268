// The expression editor: CodeMirror with Prometheus's own PromQL package (completion from the server, linting).
import { autocompletion, closeBrackets, closeBracketsKeymap, completionKeymap } from '@codemirror/autocomplete';
import { defaultKeymap, history, historyKeymap, insertNewlineAndIndent } from '@codemirror/commands';
import { HighlightStyle, bracketMatching, syntaxHighlighting } from '@codemirror/language';
import { lintKeymap } from '@codemirror/lint';
import { Compartment, EditorState, type Extension, Prec } from '@codemirror/state';
import { EditorView, keymap, placeholder } from '@codemirror/view';
import { tags } from '@lezer/highlight';
import { PromQLExtension } from '@prometheus-io/codemirror-promql';
import { useEffect, useRef } from 'preact/hooks';
import { type Settings, settings } from '../settings';
import { completion } from './completion';

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

/** The part of the editor that the settings choose. */
function chosen({ autocomplete, linter, highlighting }: Settings): Extension {
  const promql = new PromQLExtension().activateCompletion(autocomplete).activateLinter(linter).setComplete({ completeStrategy: completion });
  return [promql.asExtension(), highlighting ? syntaxHighlighting(colours) : []];
}

/** What others do to the text. */
export interface EditorHandle {
  replace: (text: string) => void;
  /** At the cursor, in place of what is selected. */
  insert: (text: string) => void;
}

interface Props {
  initial: string;
  focus: boolean;
  handle: { current: EditorHandle | null };
  onChange: (value: string) => void;
  onRun: () => void;
}

export function Editor({ initial, focus, handle, onChange, onRun }: Props) {
  const host = useRef<HTMLDivElement>(null);
  const view = useRef<EditorView | null>(null);
  const byChoice = useRef(new Compartment());
  const calls = useRef({ onChange, onRun });
  calls.current = { onChange, onRun };
  const current = settings.use();

  useEffect(() => {
    const run = () => (calls.current.onRun(), true);
    const editor = (view.current = new EditorView({
      parent: host.current!,
      state: EditorState.create({
        doc: initial,
        extensions: [
          history(),
          bracketMatching(),
          closeBrackets(),
          autocompletion(),
          EditorView.lineWrapping,
          EditorView.contentAttributes.of({ 'aria-label': 'PromQL expression' }),
          placeholder('Enter expression (press Shift+Enter for newlines)'),
          byChoice.current.of(chosen(current)),
          Prec.high(keymap.of([{ key: 'Mod-Enter', run }, { key: 'Shift-Enter', run: insertNewlineAndIndent }])),
          keymap.of([...closeBracketsKeymap, ...completionKeymap, { key: 'Enter', run }, ...defaultKeymap, ...historyKeymap, ...lintKeymap]),
          EditorView.updateListener.of((update) => {
            if (update.docChanged) calls.current.onChange(update.state.doc.toString());
          }),
        ],
      }),
    }));
    handle.current = {
      replace: (text) => editor.dispatch({ changes: { from: 0, to: editor.state.doc.length, insert: text }, selection: { anchor: text.length } }),
      insert: (text) => editor.dispatch(editor.state.replaceSelection(text)),
    };
    if (focus) editor.focus();
    return () => editor.destroy();
  }, []);

  useEffect(() => {
    view.current?.dispatch({ effects: byChoice.current.reconfigure(chosen(current)) });
  }, [current]);

  return <div class="editor" ref={host} />;
}
