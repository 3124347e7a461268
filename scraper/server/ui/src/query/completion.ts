// Completion in the editor: what the PromQL package offers, with the expressions that were run before.
import type { CompletionContext, CompletionResult } from '@codemirror/autocomplete';
import { type CompleteStrategy, newCompleteStrategy } from '@prometheus-io/codemirror-promql';
import { base } from '../base';
import { settings } from '../settings';
import { readHistory } from './history';

const fromServer = newCompleteStrategy({ remote: { url: base || location.origin } });

/** Earlier expressions stand below everything else, and only where an expression can begin. */
function withHistory(context: CompletionContext, result: CompletionResult | null): CompletionResult | null {
  const before = context.state.sliceDoc(0, context.pos);
  const earlier = settings.get().history ? readHistory().filter((expr) => expr !== before) : [];
  if (!earlier.length || (result && result.from !== 0) || (!result && before)) return result;
  const options = earlier.map((expr) => ({
    label: expr.length < 80 ? expr : `${expr.slice(0, 76)}…`,
    detail: 'past query',
    apply: expr,
    info: expr.length < 80 ? undefined : expr,
    boost: -99,
  }));
  return { ...(result ?? { from: 0 }), options: [...(result?.options ?? []), ...options] };
}

export const completion: CompleteStrategy = {
  async promQL(context) {
    return withHistory(context, await fromServer.promQL(context));
  },
};
