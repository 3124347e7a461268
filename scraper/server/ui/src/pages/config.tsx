import { Copy, Load, Page } from '../parts/parts';
import { Yaml } from '../parts/yaml';
import { useApi } from '../use';

export function ConfigPage() {
  const config = useApi<{ yaml: string }>('status/config');
  return (
    <Page title="Configuration" aside={config.data && <Copy text={config.data.yaml} />}>
      <Load from={config}>{({ yaml }) => <Yaml text={yaml} />}</Load>
    </Page>
  );
}
