import { Card, Empty, Load, Page, Refresh } from '../parts/parts';
import type { Alertmanagers } from '../types';
import { useApi } from '../use';

export function AlertmanagersPage() {
  const found = useApi<Alertmanagers>('alertmanagers');
  return (
    <Page title="Alertmanager discovery" aside={<Refresh from={found} />}>
      <Load from={found}>
        {({ activeAlertmanagers, droppedAlertmanagers }) => (
          <div class="cards">
            <Endpoints title="Active" urls={activeAlertmanagers.map(({ url }) => url)} none="No Alertmanager is known." />
            <Endpoints title="Dropped by relabelling" urls={droppedAlertmanagers.map(({ url }) => url)} none="None was dropped." />
          </div>
        )}
      </Load>
    </Page>
  );
}

function Endpoints({ title, urls, none }: { title: string; urls: string[]; none: string }) {
  return (
    <Card title={`${title} (${urls.length})`}>
      {urls.length ? <table class="list"><tbody>{urls.map((url) => <tr key={url}><td><a href={url}>{url}</a></td></tr>)}</tbody></table> : <Empty title={none} />}
    </Card>
  );
}
