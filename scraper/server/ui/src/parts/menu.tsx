// A button that opens a small box below itself. Escape, a click elsewhere and a choice made in it close it.
import type { ComponentChildren } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';

interface Props {
  /** What stands on the button. */
  label: ComponentChildren;
  /** The button's name where `label` is an icon. */
  title?: string;
  class?: string;
  /** The content, made when opened. A click on an element with `data-close`, or on a link, closes the box. */
  children: () => ComponentChildren;
}

export function Menu({ label, title, class: kind = '', children }: Props) {
  const [open, setOpen] = useState(false);
  const box = useRef<HTMLDivElement>(null);
  const button = useRef<HTMLButtonElement>(null);

  useEffect(() => {
    if (!open) return;
    const outside = (e: Event) => !box.current!.contains(e.target as globalThis.Node) && setOpen(false);
    const escape = (e: KeyboardEvent) => {
      if (e.key !== 'Escape') return;
      setOpen(false);
      button.current!.focus();
    };
    document.addEventListener('pointerdown', outside);
    document.addEventListener('focusin', outside);
    document.addEventListener('keydown', escape);
    return () => {
      document.removeEventListener('pointerdown', outside);
      document.removeEventListener('focusin', outside);
      document.removeEventListener('keydown', escape);
    };
  }, [open]);

  return (
    <div class={`menu ${kind}`} ref={box}>
      <button ref={button} type="button" class="ghost" aria-haspopup="true" aria-expanded={open} title={title} aria-label={title} onClick={() => setOpen(!open)}>
        {label}
      </button>
      {open && (
        <div class="menu-box" onClick={(e) => (e.target as Element).closest('a, [data-close]') && setOpen(false)}>
          {children()}
        </div>
      )}
    </div>
  );
}
