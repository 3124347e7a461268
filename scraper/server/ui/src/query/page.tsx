import { useEffect, useState } from 'preact/hooks';
import { Panel } from './panel';
import { type PanelState, fromUrl, newPanel, toUrl } from './state';

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
      {panels.map((panel, i) => (
        <Panel
          key={panel.id}
          state={panel}
          onChange={(state) => update(panels.map((p, j) => (j === i ? state : p)))}
          onRemove={panels.length > 1 ? () => update(panels.filter((_, j) => j !== i)) : undefined}
        />
      ))}
      <button onClick={() => update([...panels, newPanel()])}>Add panel</button>
    </>
  );
}
