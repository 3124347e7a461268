// The frame: navigation, theme, and which page a path shows.
import { render } from 'preact';
import type { ComponentChildren, FunctionComponent } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { base } from './api';
import { AlertmanagersPage, DiscoveryPage } from './pages/discovery';
import { Notes } from './notes';
import { ActiveQueriesPage, AlertsPage, ConfigPage, FlagsPage, RulesPage, StatusPage, TsdbPage } from './pages/status';
import { TargetsPage } from './pages/targets';
import { QueryPage } from './query/page';
import { currentZone, setZone } from './time';
import { useStored } from './use';
import './style.css';

const pages: { path: string; title: string; page: FunctionComponent; menu?: boolean }[] = [
  { path: '/query', title: 'Query', page: QueryPage },
  { path: '/alerts', title: 'Alerts', page: AlertsPage },
  { path: '/targets', title: 'Targets', page: TargetsPage },
  { path: '/rules', title: 'Rules', page: RulesPage, menu: true },
  { path: '/service-discovery', title: 'Service discovery', page: DiscoveryPage, menu: true },
  { path: '/alertmanager-discovery', title: 'Alertmanager discovery', page: AlertmanagersPage, menu: true },
  { path: '/status', title: 'Runtime and build', page: StatusPage, menu: true },
  { path: '/tsdb-status', title: 'TSDB status', page: TsdbPage, menu: true },
  { path: '/flags', title: 'Flags', page: FlagsPage, menu: true },
  { path: '/config', title: 'Configuration', page: ConfigPage, menu: true },
  { path: '/active-queries', title: 'Active queries', page: ActiveQueriesPage, menu: true },
];

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

function App() {
  const [path, setPath] = useState(location.pathname.slice(base.length));
  const [theme, setTheme] = useStored('narthex.theme', 'auto');
  const [zone, setShownZone] = useState(currentZone());

  useEffect(() => {
    const back = () => setPath(location.pathname.slice(base.length));
    addEventListener('popstate', back);
    return () => removeEventListener('popstate', back);
  }, []);
  useEffect(() => {
    document.documentElement.dataset.theme = theme;
  }, [theme]);

  const page = pages.find((p) => p.path === path) ?? pages[0]!;
  useEffect(() => {
    document.title = `${page.title} · Narthex`;
  }, [page]);
  const go = (to: string) => {
    history.pushState(null, '', base + to);
    setPath(to);
    document.querySelectorAll('details.menu').forEach((menu) => menu.removeAttribute('open'));
  };
  const next = { auto: 'dark', dark: 'light', light: 'auto' }[theme] ?? 'auto';
  return (
    <>
      <header class="top">
        <a class="brand" href={`${base}/query`}><img src={`${base}/assets/favicon.svg`} alt="" width="24" height="24" /> Narthex</a>
        <nav aria-label="Pages">
          {pages.filter((p) => !p.menu).map((p) => <Link key={p.path} to={p.path} here={page.path} onGo={go}>{p.title}</Link>)}
          <details class="menu">
            <summary>Status</summary>
            <div>{pages.filter((p) => p.menu).map((p) => <Link key={p.path} to={p.path} here={page.path} onGo={go}>{p.title}</Link>)}</div>
          </details>
        </nav>
        <span class="grow" />
        <span class="choices">
        <button class="small" title="The clock that times are shown on" onClick={() => { const other = zone === 'UTC' ? 'local' : 'UTC'; setZone(other); setShownZone(other); }}>{zone === 'UTC' ? 'UTC' : 'Local time'}</button>
        <button class="small" onClick={() => setTheme(next)} title={`Colours: ${theme}`} aria-label={`Colours: ${theme}; switch to ${next}`}>
          {{ auto: '◐', dark: '●', light: '○' }[theme]}
        </button>
        </span>
      </header>
      <main><Notes /><page.page key={page.path + zone} /></main>
    </>
  );
}

render(<App />, document.getElementById('app')!);
