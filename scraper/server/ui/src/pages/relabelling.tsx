// What each relabelling rule of a pool does to the labels of one discovered target.
import { Dialog, Empty, LabelChips, Load } from '../parts/parts';
import type { Metric, RelabelStep } from '../types';
import { useApi } from '../use';

export function RelabelDialog({ pool, discovered, onClose }: { pool: string; discovered: Metric; onClose: () => void }) {
  const steps = useApi<{ steps: RelabelStep[] }>('targets/relabel_steps', { scrapePool: pool, labels: JSON.stringify(discovered) });
  return (
    <Dialog title={`Relabelling in ${pool}`} class="relabelling" onClose={onClose}>
      <h3>Discovered labels</h3>
      <LabelChips labels={discovered} />
      <Load from={steps}>
        {({ steps }) => {
          // What follows the rule that drops a target is never applied.
          const last = steps.findIndex((s) => !s.keep);
          const applied = last < 0 ? steps : steps.slice(0, last + 1);
          if (!applied.length) return <Empty title="This pool has no relabelling rules." />;
          return (
            <>
              <ol class="steps">
                {applied.map((step, i) => <Step key={i} step={step} before={applied[i - 1]?.output ?? discovered} />)}
              </ol>
              {last >= 0 && steps.length > applied.length && <p class="muted">{steps.length - applied.length} more rules are not applied to a dropped target.</p>}
              {last < 0 && <><h3>Target labels after all rules</h3><LabelChips labels={steps.at(-1)!.output} /></>}
            </>
          );
        }}
      </Load>
    </Dialog>
  );
}

function Step({ step: { rule, output, keep }, before }: { step: RelabelStep; before: Metric }) {
  const names = [...new Set([...Object.keys(before), ...Object.keys(output)])].filter((name) => before[name] !== output[name]).sort();
  return (
    <li>
      <table class="rule"><tbody>
        {Object.entries(rule).map(([key, value]) => <tr key={key}><th scope="row">{key}</th><td><code>{Array.isArray(value) ? `[${value.join(', ')}]` : String(value)}</code></td></tr>)}
      </tbody></table>
      {!keep ? <span class="badge down">drops the target</span> : !names.length ? <span class="muted">changes nothing</span> : (
        <ul class="changes">
          {names.map((name) => (
            <li key={name}>
              <code>{name}</code>{' '}
              {before[name] !== undefined && <del>{before[name] || '""'}</del>}
              {before[name] !== undefined && output[name] !== undefined && ' → '}
              {output[name] !== undefined && <ins>{output[name] || '""'}</ins>}
            </li>
          ))}
        </ul>
      )}
    </li>
  );
}
