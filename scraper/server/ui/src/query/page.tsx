// The query page: panels below each other, all of which stand in the URL.
import { useEffect, useState } from 'preact/hooks';
import { Icon } from '../parts/icons';
import { Panel } from './panel';
import { type PanelState, copyOf, fromUrl, newPanel, toUrl } from './state';

export function QueryPage() {
  const [panels, setPanels] = useState(() => fromUrl(location.search));

  useEffect(() => {
    const back = () => setPanels(fromUrl(location.search));
    addEventListener('popstate', back);
    return () => removeEventListener('popstate', back);
  }, []);

  const update = (next: PanelState[]) => {
    setPanels(next);
    const url = toUrl(next);
    if (url !== location.search) history.pushState(null, '', location.pathname + url);
  };
  return (
    <>
      <h1 class="hidden">Query</h1>
      {panels.map((panel, i) => (
        <Panel
          key={panel.id}
          state={panel}
          onChange={(state) => update(panels.map((p, j) => (j === i ? state : p)))}
          onDuplicate={(expr) => update([...panels.slice(0, i + 1), { ...copyOf(panel), expr }, ...panels.slice(i + 1)])}
          onRemove={panels.length > 1 ? () => update(panels.filter((_, j) => j !== i)) : undefined}
        />
      ))}
      <button onClick={() => update([...panels, newPanel()])}><Icon name="plus" /> Add query</button>
    </>
  );
}
