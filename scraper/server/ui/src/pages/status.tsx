// What runs here, since when, and with which limits.
import { Card, Facts, Load, Page } from '../parts/parts';
import { formatDuration, formatTime } from '../time';
import { useApi } from '../use';

type Values = Record<string, string | number | boolean>;

const TITLES: Record<string, string> = {
  startTime: 'Start time', CWD: 'Working directory', hostname: 'Host name', serverTime: 'Server time', reloadConfigSuccess: 'Configuration reload',
  lastConfigTime: 'Last successful configuration reload', corruptionCount: 'WAL corruptions', goroutineCount: 'Threads and tasks', storageRetention: 'Storage retention',
  GOMAXPROCS: 'CPUs used', GOMEMLIMIT: 'Memory limit', version: 'Version', revision: 'Revision', branch: 'Branch', buildUser: 'Built by', buildDate: 'Built at', goVersion: 'Compiler',
};

function show(name: string, value: string | number | boolean): string {
  if (value === '') return '–';
  if (name === 'reloadConfigSuccess') return value ? 'Successful' : 'Failed: see the notice above and the log';
  if (/Time$/.test(name) && typeof value === 'string' && !Number.isNaN(Date.parse(value))) return formatTime(Date.parse(value));
  // The largest 64-bit number stands for no limit.
  if (name === 'GOMEMLIMIT') return Number(value) > 2 ** 62 ? 'none' : `${(Number(value) / 2 ** 30).toFixed(2)} GiB`;
  const [, amount, unit] = /^(\d+) (s|bytes)$/.exec(String(value)) ?? [];
  if (unit === 's') return formatDuration(Number(amount) * 1000);
  return unit === 'bytes' ? `${(Number(amount) / 2 ** 20).toFixed(1)} MiB` : String(value);
}

/** Settings of Go's runtime, which only a Go program has. */
const rows = (values: Values): [string, string][] =>
  Object.entries(values)
    .filter(([name, value]) => value !== '' || !name.startsWith('GO'))
    .map(([name, value]) => [TITLES[name] ?? name[0]!.toUpperCase() + name.slice(1), show(name, value)]);

export function StatusPage() {
  const build = useApi<Values>('status/buildinfo');
  const runtime = useApi<Values>('status/runtimeinfo');
  const storage = useApi<Values>('status/storage');
  return (
    <Page title="Runtime & build information">
      <div class="cards">
        <Card title="Build">{<Load from={build}>{(facts) => <Facts rows={rows(facts)} />}</Load>}</Card>
        <Card title="Runtime">{<Load from={runtime}>{(facts) => <Facts rows={rows(facts)} />}</Load>}</Card>
        <Card title="Storage">{<Load from={storage}>{(facts) => <Facts rows={rows(facts)} />}</Load>}</Card>
      </div>
    </Page>
  );
}
