// What the server wants whoever looks at a page to know (a failed reload, a full disk), pushed as it changes.
import { useEffect, useState } from 'preact/hooks';
import { base } from './api';
import { Notice } from './parts';

interface Note {
  text: string;
  date: string;
  active: boolean;
}

export function Notes() {
  const [notes, setNotes] = useState<Note[]>([]);
  useEffect(() => {
    // The browser reconnects by itself; 204 (too many listeners) ends it.
    const source = new EventSource(`${base}/api/v1/notifications/live`);
    source.onmessage = ({ data }: MessageEvent<string>) => {
      const note = JSON.parse(data) as Note;
      setNotes((old) => [...old.filter((n) => n.text !== note.text), ...(note.active ? [note] : [])]);
    };
    return () => source.close();
  }, []);
  return <>{notes.map((note) => <Notice key={note.text} kind="warning">{note.text}</Notice>)}</>;
}
