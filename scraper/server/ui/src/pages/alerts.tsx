// Alerts and rules as the API lists them. Rules are not evaluated yet: their pages say so where there is nothing to list.
import { Card, Empty, Facts, LabelChips, Load, Page } from '../parts/parts';
import type { Alerts, RuleGroups } from '../types';
import { useApi } from '../use';

const NOT_YET = 'Rules are not evaluated by this version; alerting and recording rules of the configuration wait for one that does.';

export function AlertsPage() {
  const loaded = useApi<Alerts>('alerts');
  return (
    <Page title="Alerts">
      <Load from={loaded}>
        {({ alerts }) => alerts.length
          ? <Card><Facts rows={alerts.map((a) => [a.state, <LabelChips key="l" labels={a.labels} />])} /></Card>
          : <Empty title="No alerts.">{NOT_YET}</Empty>}
      </Load>
    </Page>
  );
}

export function RulesPage() {
  const loaded = useApi<RuleGroups>('rules');
  return (
    <Page title="Rule health">
      <Load from={loaded}>
        {({ groups }) => groups.length
          ? groups.map((g) => <Card key={g.file + g.name} title={`${g.name} (${g.file})`}><Facts rows={g.rules.map((r) => [r.name, <code key="q">{r.query}</code>])} /></Card>)
          : <Empty title="No rule groups.">{NOT_YET}</Empty>}
      </Load>
    </Page>
  );
}
