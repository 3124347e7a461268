import { Card, Empty, Load, Page, SearchBox } from '../parts/parts';
import { matchesWords } from '../labels';
import { useApi, useUrlParams } from '../use';

export function FlagsPage() {
  const flags = useApi<Record<string, string>>('status/flags');
  const [params, setParams] = useUrlParams();
  const search = params.get('search') ?? '';
  return (
    <Page title="Command-line flags" aside={<SearchBox placeholder="Filter by name or value" value={search} onInput={(text) => setParams({ search: text })} />}>
      <Load from={flags}>
        {(all) => {
          const kept = Object.entries(all).sort().filter(([name, value]) => matchesWords(`--${name} ${value}`, search));
          if (!kept.length) return <Empty title="No flag matches the filter." />;
          return (
            <Card>
              <table class="list striped">
                <thead><tr><th>Flag</th><th>Value</th></tr></thead>
                <tbody>{kept.map(([name, value]) => <tr key={name}><td><code>--{name}</code></td><td><code>{value || <span class="muted">(empty)</span>}</code></td></tr>)}</tbody>
              </table>
            </Card>
          );
        }}
      </Load>
    </Page>
  );
}
