// The frame: navigation, settings, and which page a path shows.
import { type ComponentChildren, type FunctionComponent, render } from 'preact';
import { useEffect, useErrorBoundary, useState } from 'preact/hooks';
import { base } from './base';
import { ActiveQueriesPage } from './pages/active-queries';
import { AlertmanagersPage } from './pages/alertmanagers';
import { AlertsPage, RulesPage } from './pages/alerts';
import { ConfigPage } from './pages/config';
import { DiscoveryPage } from './pages/discovery';
import { FlagsPage } from './pages/flags';
import { StatusPage } from './pages/status';
import { TargetsPage } from './pages/targets';
import { TsdbPage } from './pages/tsdb';
import { Icon } from './parts/icons';
import { Menu } from './parts/menu';
import { Notice } from './parts/parts';
import { QueryPage } from './query/page';
import { settings } from './settings';
import { Notes } from './shell/notes';
import { server } from './shell/server';
import { SettingsMenu, ThemeButton } from './shell/settings-menu';
import './style.css';

interface PageEntry {
  path: string;
  title: string;
  page: FunctionComponent;
}

const MAIN: PageEntry[] = [
  { path: '/query', title: 'Query', page: QueryPage },
  { path: '/alerts', title: 'Alerts', page: AlertsPage },
];
const STATUS: { group: string; pages: PageEntry[] }[] = [
  {
    group: 'Monitoring status',
    pages: [
      { path: '/targets', title: 'Target health', page: TargetsPage },
      { path: '/rules', title: 'Rule health', page: RulesPage },
      { path: '/service-discovery', title: 'Service discovery', page: DiscoveryPage },
      { path: '/alertmanager-discovery', title: 'Alertmanager discovery', page: AlertmanagersPage },
      { path: '/active-queries', title: 'Active queries', page: ActiveQueriesPage },
    ],
  },
  {
    group: 'Server status',
    pages: [
      { path: '/status', title: 'Runtime & build information', page: StatusPage },
      { path: '/tsdb-status', title: 'TSDB status', page: TsdbPage },
      { path: '/flags', title: 'Command-line flags', page: FlagsPage },
      { path: '/config', title: 'Configuration', page: ConfigPage },
    ],
  },
];
const IN_STATUS = STATUS.flatMap(({ pages }) => pages);

/** As --web.page-title has it. */
const SERVER_TITLE = document.title;

function pageOf(path: string): PageEntry {
  return [...MAIN, ...IN_STATUS].find((p) => p.path === path) ?? MAIN[0]!;
}

function Link({ to, here, onGo, children }: { to: string; here: string; onGo: (path: string) => void; children: ComponentChildren }) {
  return (
    <a
      href={base + to}
      aria-current={here === to ? 'page' : undefined}
      onClick={(e) => {
        if (e.ctrlKey || e.metaKey || e.shiftKey) return;
        e.preventDefault();
        onGo(to);
      }}
    >
      {children}
    </a>
  );
}

/** A fault of a page leaves the frame standing, and says what it was. */
function Safe({ children }: { children: ComponentChildren }) {
  const [error, retry] = useErrorBoundary();
  if (error) return <Notice kind="error" title="This page failed:">{String(error)} <button class="small" onClick={retry}>Try again</button></Notice>;
  return <>{children}</>;
}

function App() {
  const [path, setPath] = useState(location.pathname.slice(base.length));
  const { theme, localTime } = settings.use();
  const { state } = server.use();
  const page = pageOf(path);

  useEffect(() => {
    const back = () => setPath(location.pathname.slice(base.length));
    addEventListener('popstate', back);
    return () => removeEventListener('popstate', back);
  }, []);
  useEffect(() => {
    document.documentElement.dataset.theme = theme;
  }, [theme]);
  useEffect(() => {
    document.title = `${page.title} · ${SERVER_TITLE}`;
  }, [page]);

  const go = (to: string) => {
    history.pushState(null, '', base + to);
    setPath(to);
    scrollTo(0, 0);
  };
  const link = (p: PageEntry) => <Link key={p.path} to={p.path} here={page.path} onGo={go}>{p.title}</Link>;
  const inStatus = IN_STATUS.includes(page);
  return (
    <>
      <a class="skip" href="#main" onClick={(e) => { e.preventDefault(); document.querySelector<HTMLElement>('main')!.focus(); }}>Skip to the page</a>
      <header class="top">
        <a class="brand" href={`${base}/query`} aria-label="Narthex"><img src={`${base}/assets/favicon.svg`} alt="" width="24" height="24" /><span>Narthex</span></a>
        <nav aria-label="Pages">
          {MAIN.map(link)}
          <Menu class={inStatus ? 'current' : ''} label={<>Status{inStatus && <span class="wide-only"> <Icon name="right" /> {page.title}</span>} <span class="caret" /></>}>
            {() => STATUS.map(({ group, pages }) => <div key={group} class="menu-group" role="group" aria-label={group}><span class="menu-title">{group}</span>{pages.map(link)}</div>)}
          </Menu>
        </nav>
        <span class="grow" />
        <ThemeButton />
        <SettingsMenu />
      </header>
      <main tabIndex={-1}>
        <Notes />
        {state === 'starting' ? null : <Safe key={`${page.path}${localTime}`}><page.page /></Safe>}
      </main>
    </>
  );
}

render(<App />, document.getElementById('app')!);
