// A field for a point in time: typed as `2026-01-31 23:59`, or picked from the browser's calendar.
import { useRef } from 'preact/hooks';
import { IconButton } from '../parts/parts';
import { fromInput, toInput } from '../time';

interface Props {
  name: string;
  /** Milliseconds since the epoch. */
  value?: number;
  /** What the field shows where there is none. */
  none: string;
  onChange: (ms: number | undefined) => void;
  disabled?: boolean;
}

export function TimeInput({ name, value, none, onChange, disabled }: Props) {
  const picker = useRef<HTMLInputElement>(null);
  const shown = value === undefined ? '' : toInput(value);
  const typed = (field: HTMLInputElement) => {
    const text = field.value.trim();
    const ms = fromInput(text);
    if (text && ms === undefined) {
      field.setCustomValidity('A time is written 2026-01-31 23:59:59');
      field.reportValidity();
    } else if (ms !== value) {
      onChange(ms);
    }
  };
  return (
    <span class="group time">
      <input
        type="text"
        key={shown}
        size={19}
        aria-label={name}
        placeholder={none}
        disabled={disabled}
        defaultValue={shown}
        onInput={(e) => e.currentTarget.setCustomValidity('')}
        onChange={(e) => typed(e.currentTarget)}
        onKeyDown={(e) => e.key === 'Enter' && typed(e.currentTarget)}
      />
      {value !== undefined && <IconButton icon="close" title={`${name}: back to ${none}`} onClick={() => onChange(undefined)} />}
      <IconButton icon="calendar" title={`${name}: pick from a calendar`} disabled={disabled} onClick={() => picker.current!.showPicker()} />
      <input ref={picker} class="picker" type="datetime-local" step={1} tabIndex={-1} aria-hidden="true" value={shown.replace(' ', 'T')} onChange={(e) => onChange(fromInput(e.currentTarget.value))} />
    </span>
  );
}
