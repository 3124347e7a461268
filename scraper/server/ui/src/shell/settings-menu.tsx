// The menu behind the gear.
import { Icon } from '../parts/icons';
import { Menu } from '../parts/menu';
import { type Settings, changeSettings, settings } from '../settings';

type Switch = { [K in keyof Settings]: Settings[K] extends boolean ? K : never }[keyof Settings];

const SWITCHES: { title: string; of: [Switch, string][] }[] = [
  { title: 'All pages', of: [['localTime', 'Use local time']] },
  {
    title: 'Query page',
    of: [
      ['history', 'Remember queries'],
      ['autocomplete', 'Complete while typing'],
      ['highlighting', 'Highlight syntax'],
      ['linter', 'Mark mistakes while typing'],
      ['warnings', 'Show query warnings'],
      ['infos', 'Show query notices'],
    ],
  },
];

export function SettingsMenu() {
  const current = settings.use();
  return (
    <Menu label={<Icon name="gear" />} title="Settings" class="to-left">
      {() => SWITCHES.map(({ title, of }) => (
        <fieldset key={title}>
          <legend>{title}</legend>
          {of.map(([key, text]) => (
            <label key={key}><input type="checkbox" checked={current[key]} onChange={(e) => changeSettings({ [key]: e.currentTarget.checked })} /> {text}</label>
          ))}
        </fieldset>
      ))}
    </Menu>
  );
}

const NEXT = { auto: 'light', light: 'dark', dark: 'auto' } as const;
const ICONS = { auto: 'half', light: 'sun', dark: 'moon' } as const;

export function ThemeButton() {
  const { theme } = settings.use();
  const title = `Colours: ${theme}; switch to ${NEXT[theme]}`;
  return <button class="ghost" title={title} aria-label={title} onClick={() => changeSettings({ theme: NEXT[theme] })}><Icon name={ICONS[theme]} /></button>;
}
