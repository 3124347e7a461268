// Whether the server answers. Requests say when it does not; a watch then asks until it does again.
import { base } from '../base';
import { store } from '../store';

export type ServerState = 'ready' | 'starting' | 'stopping' | 'gone';

/** `epoch` counts how often the server came back: what was loaded before is loaded again. */
export const server = store<{ state: ServerState; epoch: number }>({ state: 'ready', epoch: 0 });

let watching = false;

export function setServer(state: ServerState) {
  const old = server.get();
  if (old.state !== state) server.set({ state, epoch: old.epoch + (state === 'ready' ? 1 : 0) });
  if (state !== 'ready' && !watching) {
    watching = true;
    setTimeout(watch, 1000);
  }
}

async function watch() {
  watching = false;
  try {
    const { status, headers } = await fetch(`${base}/-/ready`, { cache: 'no-store' });
    if (status === 503) setServer(headers.get('x-prometheus-stopping') === 'true' ? 'stopping' : 'starting');
    else setServer(status < 500 ? 'ready' : 'gone');
  } catch {
    setServer('gone');
  }
}
