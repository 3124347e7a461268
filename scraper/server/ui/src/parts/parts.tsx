// Small pieces that pages are made of.
import type { ComponentChildren } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';
import { isPlainName, labelName, quote } from '../labels';
import type { Metric } from '../types';
import type { Loaded } from '../use';
import { copyText } from './copy';
import { Icon, type IconName } from './icons';

export function Notice({ kind, title, children }: { kind: 'error' | 'warning' | 'info' | 'good'; title?: string; children?: ComponentChildren }) {
  return (
    <div class={`notice ${kind}`} role={kind === 'error' ? 'alert' : 'status'}>
      <Icon name={kind === 'error' || kind === 'warning' ? 'warning' : 'info'} />
      <div>{title && <b>{title}</b>} {children}</div>
    </div>
  );
}

/** What a page says that has nothing to show, and what to do about it. */
export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return <div class="empty"><b>{title}</b>{children && <p>{children}</p>}</div>;
}

export function Page({ title, aside, children }: { title: string; aside?: ComponentChildren; children: ComponentChildren }) {
  return (
    <>
      <div class="page-head"><h1>{title}</h1>{aside}</div>
      {children}
    </>
  );
}

export function Card({ title, children }: { title?: string; children: ComponentChildren }) {
  return <section class="card">{title && <h2>{title}</h2>}{children}</section>;
}

/** Shows what was loaded, or why not, or that it is under way. */
export function Load<T>({ from, children }: { from: Loaded<T>; children: (data: T) => ComponentChildren }) {
  return (
    <>
      {from.error && <Notice kind="error">{from.error} <button class="small" onClick={from.reload}>Try again</button></Notice>}
      {from.data !== undefined ? children(from.data) : !from.error && <p class="skeleton" aria-busy="true">Loading…</p>}
    </>
  );
}

export function Refresh({ from }: { from: Loaded<unknown> }) {
  return <button onClick={from.reload} aria-busy={from.busy}><Icon name="refresh" /> Refresh</button>;
}

export function IconButton({ icon, title, onClick, disabled }: { icon: IconName; title: string; onClick: () => void; disabled?: boolean }) {
  return <button type="button" class="icon-button" title={title} aria-label={title} disabled={disabled} onClick={onClick}><Icon name={icon} /></button>;
}

export function Copy({ text }: { text: string }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    setCopied(await copyText(text));
    setTimeout(() => setCopied(false), 2000);
  };
  return <button onClick={copy}><Icon name="copy" /> <span aria-live="polite">{copied ? 'Copied' : 'Copy'}</span></button>;
}

/** A series as a selector; a double click on a label copies its matcher. */
export function MetricText({ metric }: { metric: Metric }) {
  const name = metric.__name__ ?? '';
  const plain = isPlainName(name);
  const labels = Object.entries(metric).filter(([key]) => key !== '__name__');
  const parts = labels.map(([key, value]) => (
    <span key={key} title="Double click copies this matcher" onDblClick={() => copyText(`${labelName(key)}=${quote(value)}`)}>
      <i>{labelName(key)}</i>=<q>{quote(value)}</q>
    </span>
  ));
  if (name && !plain) parts.unshift(<b key="__name__">{quote(name)}</b>);
  return (
    <span class="metric">
      {plain && <b>{name}</b>}
      {(parts.length > 0 || !name) && '{'}
      {parts.map((part, i) => [i > 0 && ', ', part])}
      {(parts.length > 0 || !name) && '}'}
    </span>
  );
}

export function LabelChips({ labels }: { labels: Metric }) {
  return (
    <span class="chips">
      {Object.entries(labels).map(([name, value]) => (
        <span class="chip" key={name}><i>{labelName(name)}</i>=<q>{quote(value)}</q></span>
      ))}
    </span>
  );
}

export function Facts({ rows }: { rows: [string, ComponentChildren][] }) {
  return (
    <table class="facts">
      <tbody>
        {rows.map(([name, value]) => (
          <tr key={name}><th scope="row">{name}</th><td>{value}</td></tr>
        ))}
      </tbody>
    </table>
  );
}

/** The first of many things; a button shows more, so that a page stays small whatever the server has. */
export function Some<T>({ of, first, noun, children }: { of: T[]; first: number; noun: string; children: (shown: T[]) => ComponentChildren }) {
  const [most, setMost] = useState(first);
  return (
    <>
      {children(of.slice(0, most))}
      {of.length > most && (
        <p class="more">
          {most} of {of.length} {noun} are shown. <button class="small" onClick={() => setMost(most + 2 * first)}>Show {Math.min(2 * first, of.length - most)} more</button>
        </p>
      )}
    </>
  );
}

export function SearchBox({ value, onInput, placeholder }: { value: string; onInput: (text: string) => void; placeholder: string }) {
  return (
    <span class="search">
      <Icon name="search" />
      <input type="search" aria-label={placeholder} placeholder={placeholder} value={value} onInput={(e) => onInput(e.currentTarget.value)} />
    </span>
  );
}

/** Buttons of which any number can be pressed; none pressed means all. */
export function Choices<T extends string>({ label, of, picked, onPick }: { label: string; of: { value: T; text: string }[]; picked: T[]; onPick: (picked: T[]) => void }) {
  return (
    <span class="choices" role="group" aria-label={label}>
      {of.map(({ value, text }) => {
        const on = picked.includes(value);
        return <button key={value} class={`pill ${value}`} aria-pressed={on} onClick={() => onPick(on ? picked.filter((p) => p !== value) : [...picked, value])}>{text}</button>;
      })}
    </span>
  );
}

/** A box over the page, closed by Escape, by its button and by a click beside it. */
export function Dialog({ title, class: kind = '', onClose, children }: { title: string; class?: string; onClose: () => void; children: ComponentChildren }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current!.showModal(), []);
  return (
    <dialog ref={dialog} class={kind} aria-label={title} onClose={onClose} onClick={(e) => e.target === dialog.current && dialog.current!.close()}>
      <header><h2>{title}</h2><IconButton icon="close" title="Close" onClick={() => dialog.current!.close()} /></header>
      <div class="dialog-body">{children}</div>
    </dialog>
  );
}
