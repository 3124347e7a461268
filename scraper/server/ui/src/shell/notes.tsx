// What stands above every page: that the server does not answer, and what it wants to be known (a failed reload, a full
// disk), pushed as it changes.
import { useEffect, useState } from 'preact/hooks';
import { base } from '../base';
import { Notice } from '../parts/parts';
import type { Note, WalReplay } from '../types';
import { type ServerState, server } from './server';

const STATES: Record<Exclude<ServerState, 'ready'>, string> = {
  starting: 'Narthex is starting up. This page goes on when it is ready.',
  stopping: 'Narthex is shutting down.',
  gone: 'Narthex does not answer. What is shown may be old; this page asks again every second.',
};

export function Notes() {
  const { state, epoch } = server.use();
  const [notes, setNotes] = useState<Note[]>([]);
  useEffect(() => {
    setNotes([]);
    // The browser reconnects by itself; 204 (too many listeners) ends it.
    const source = new EventSource(`${base}/api/v1/notifications/live`);
    source.onmessage = ({ data }: MessageEvent<string>) => {
      const note = JSON.parse(data) as Note;
      setNotes((old) => [...old.filter((n) => n.text !== note.text), ...(note.active ? [note] : [])]);
    };
    return () => source.close();
  }, [epoch]);
  return (
    <>
      {state !== 'ready' && <Notice kind={state === 'gone' ? 'error' : 'warning'}>{STATES[state]} {state === 'starting' && <Replay />}</Notice>}
      {notes.map((note) => <Notice key={note.text} kind="warning">{note.text}</Notice>)}
    </>
  );
}

/** How far the reading of the log is. The server answers this before it is ready, so `api`, which waits, is no help. */
function Replay() {
  const [at, setAt] = useState<WalReplay>();
  useEffect(() => {
    const ask = () =>
      fetch(`${base}/api/v1/status/walreplay`)
        .then((r) => r.json())
        .then((reply) => setAt(reply.data))
        .catch(() => setAt(undefined));
    void ask();
    const timer = setInterval(ask, 1000);
    return () => clearInterval(timer);
  }, []);
  return at && at.max > at.min ? <progress aria-label="Log read" value={at.current - at.min} max={at.max - at.min} /> : null;
}
