// Drives every page in a real Chromium against a running server: `node test/pages.mjs http://127.0.0.1:9090 [FOLDER]`.
// The server has to scrape itself (with at least one relabelling rule, in the pool whose name is last) and a target
// with a histogram request_seconds that has exemplars. With FOLDER, screenshots at three sizes
// are kept there. Ends with a count; exits 1 at the first page that does not show what it must.
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { chromium } from 'playwright-core';

const [server, folder] = process.argv.slice(2);
if (folder) await mkdir(folder, { recursive: true });
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});
const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
page.setDefaultTimeout(20000);
const faults = [];
page.on('pageerror', (error) => faults.push(String(error)));

let passed = 0;
async function check(name, drive) {
  try {
    await drive();
    assert.deepEqual(faults, [], 'errors in the page');
    passed++;
    console.log(`ok ${name}`);
  } catch (error) {
    console.error(`FAILED ${name}: ${error.stack}`);
    if (folder) await page.screenshot({ path: `${folder}/failed.png` });
    await browser.close();
    process.exit(1);
  }
}
async function shoot(name) {
  if (!folder) return;
  for (const [size, width, height] of [['wide', 1600, 1000], ['laptop', 1280, 800], ['phone', 390, 844]]) {
    await page.setViewportSize({ width, height });
    await page.waitForTimeout(150);
    await page.screenshot({ path: `${folder}/${name}-${size}.png` });
  }
  await page.setViewportSize({ width: 1280, height: 900 });
}
const editor = () => page.locator('.cm-content').first();

await check('/ leads to the query page', async () => {
  await page.goto(`${server}/`);
  await page.waitForURL('**/query**');
  await editor().waitFor();
});

await check('a typed query shows a table', async () => {
  await editor().click();
  await page.keyboard.type('up');
  await page.keyboard.press('Escape');
  await page.keyboard.press('Enter');
  await page.locator('table.result tr').first().waitFor();
  assert.match(await page.locator('table.result').innerText(), /up\{.*\}/);
  assert.match(page.url(), /g0\.expr=up/);
});

await check('completion offers metric names', async () => {
  await editor().click();
  await page.keyboard.press('Control+A');
  await page.keyboard.type('scrape_dur', { delay: 40 });
  await page.locator('.cm-tooltip-autocomplete li', { hasText: 'scrape_duration_seconds' }).first().waitFor();
  await page.keyboard.press('Escape');
  await page.keyboard.press('Control+A');
  await page.keyboard.type('up');
  await page.keyboard.press('Escape');
  await page.keyboard.press('Enter');
});

await check('the graph tab draws the series', async () => {
  await page.getByRole('tab', { name: 'Graph' }).click();
  await page.locator('.legend li').first().waitFor();
  const series = Number(await page.locator('.graph').getAttribute('data-series'));
  assert.equal(await page.locator('.legend li').count(), series);
  assert.ok(series > 0);
  // The canvas holds more than background: some pixel has the last series' colour (which may hide the others).
  const drawn = await page.evaluate(() => {
    const canvas = document.querySelector('.plot canvas');
    const colour = getComputedStyle([...document.querySelectorAll('.swatch')].at(-1)).backgroundColor.match(/\d+/g).map(Number);
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    let count = 0;
    for (let i = 0; i < data.length; i += 4)
      if (data[i + 3] > 200 && Math.abs(data[i] - colour[0]) + Math.abs(data[i + 1] - colour[1]) + Math.abs(data[i + 2] - colour[2]) < 24) count++;
    return count;
  });
  assert.ok(drawn > 0, 'no pixel of the last series');
  await shoot('graph');
});

await check('the URL brings the same graph back', async () => {
  const url = page.url();
  await page.goto('about:blank');
  await page.goto(url);
  await page.locator('.legend li').first().waitFor();
  assert.equal(await page.getByRole('tab', { name: 'Graph' }).getAttribute('aria-selected'), 'true');
});

await check('an error is shown in the server’s words', async () => {
  await page.goto(`${server}/query?g0.expr=${encodeURIComponent('sum(')}&g0.tab=table`);
  await page.locator('.notice.error').waitFor();
  assert.match(await page.locator('.notice.error').innerText(), /parse error/);
});

await check('the explain tab shows the tree', async () => {
  await page.goto(`${server}/query?g0.expr=${encodeURIComponent('sum by (job) (rate(up[5m])) > 1')}&g0.tab=explain`);
  await page.locator('.tree .node').first().waitFor();
  // sum, rate, its range selector, the comparison and its number.
  assert.deepEqual(await page.locator('.tree .node').allInnerTexts(), ['sum by (job) (rate(up[5m])) > 1', 'sum by (job) (rate(up[5m]))', 'rate(up[5m])', 'up[5m]', '1']);
  await page.waitForFunction(() => [...document.querySelectorAll('.tree .count')].filter((c) => /\d+ series/.test(c.textContent)).length === 4);
  await shoot('explain');
});

await check('the metrics explorer finds and runs a metric', async () => {
  await page.goto(`${server}/query`);
  await page.getByRole('button', { name: 'Metrics' }).click();
  await page.getByPlaceholder('Search metrics by name or help').fill('scrape_duration');
  await page.getByRole('button', { name: 'scrape_duration_seconds', exact: true }).click();
  await page.locator('table.result tr').first().waitFor();
});

await check('the metrics explorer shows the labels of a metric', async () => {
  await page.getByRole('button', { name: 'Metrics', exact: true }).click();
  await page.getByPlaceholder('Search metrics by name or help').fill('up');
  await page.getByRole('button', { name: 'Labels of up', exact: true }).click();
  await page.locator('.labels-of button').first().waitFor();
  await shoot('explorer');
  await page.locator('.labels-of button').first().click();
  await page.waitForFunction(() => /__name__/.test(new URL(location.href).searchParams.get('g0.expr')));
  await page.locator('table.result tr').first().waitFor();
});

await check('history brings an expression back', async () => {
  await page.goto(`${server}/query`);
  await page.locator('.history summary').click();
  await shoot('history');
  await page.locator('.history button', { hasText: /^up$/ }).click();
  await page.locator('table.result tr').first().waitFor();
  assert.match(page.url(), /g0\.expr=up&/);
});

await check('an answer says what it cost', async () => {
  await page.locator('.cost summary').click();
  assert.match(await page.locator('.cost').innerText(), /\d+ samples[^]*execTotalTime/);
});

await check('exemplars stand on the graph', async () => {
  const expr = encodeURIComponent('rate(request_seconds_bucket[10s])');
  await page.goto(`${server}/query?g0.expr=${expr}&g0.tab=graph&g0.range_input=5m&g0.show_exemplars=1`);
  await page.locator('.exemplar').first().waitFor();
  await page.locator('.exemplar').last().dispatchEvent('click');
  assert.match(await page.locator('.exemplar-facts').innerText(), /trace_id/);
  await shoot('exemplars');
});

await check('the clock can be the browser’s', async () => {
  await page.getByRole('button', { name: 'UTC', exact: true }).click();
  await page.getByText('End (local)').waitFor();
  await page.getByRole('button', { name: 'Local time' }).click();
  await page.getByText('End (UTC)').waitFor();
});

await check('panels are added and removed', async () => {
  await page.getByRole('button', { name: 'Add panel' }).click();
  assert.equal(await page.locator('section.panel').count(), 2);
  await page.getByRole('button', { name: 'Remove this panel' }).last().click();
  assert.equal(await page.locator('section.panel').count(), 1);
});

await check('a target shows what relabelling did', async () => {
  await page.goto(`${server}/targets`);
  await page.getByText('before relabelling').last().click();
  await page.getByRole('button', { name: 'relabelling' }).last().click();
  await page.locator('.steps li').first().waitFor();
  await shoot('relabelling');
});

await check('targets are listed with their state', async () => {
  await page.goto(`${server}/targets`);
  await page.locator('.badge.up').first().waitFor();
  await page.getByRole('searchbox').fill('no such target anywhere');
  await page.locator('.pool').first().waitFor({ state: 'detached' });
  await page.getByRole('searchbox').fill('');
  await page.locator('.pool').first().waitFor();
  await shoot('targets');
});

for (const [path, text] of [
  ['service-discovery', /__address__/],
  ['status', /version/],
  ['tsdb-status', /Series by metric name/],
  ['flags', /--storage\.tsdb\.path/],
  ['config', /scrape_configs:/],
  ['active-queries', /quer/],
  ['alertmanager-discovery', /Alertmanager/],
  ['alerts', /Alerts/],
  ['rules', /Rules/],
]) {
  await check(`/${path} shows its facts`, async () => {
    await page.goto(`${server}/${path}`);
    await page.waitForFunction((source) => new RegExp(source).test(document.querySelector('main').textContent), text.source);
    assert.equal(await page.locator('.notice.error').count(), 0);
    await shoot(path);
  });
}

await check('series can be deleted, or the server says why not', async () => {
  await page.goto(`${server}/tsdb-status`);
  page.once('dialog', (dialog) => dialog.accept());
  await page.getByLabel('Series to delete').fill('up{job="no such job"}');
  await page.getByRole('button', { name: 'Delete', exact: true }).click();
  assert.match(await page.locator('.notice').innerText(), /admin APIs disabled|are deleted/);
});

await check('a note of the server stands on every page', async () => {
  await page.route('**/api/v1/notifications/live', (route) =>
    route.fulfill({ contentType: 'text/event-stream', body: 'data: {"text":"Configuration reload has failed.","date":"2026-01-01T00:00:00Z","active":true}\n\n' }));
  await page.goto(`${server}/flags`);
  await page.locator('.notice.warning', { hasText: 'Configuration reload has failed.' }).waitFor();
  await page.unroute('**/api/v1/notifications/live');
});

await check('the colour scheme can be switched', async () => {
  await page.getByRole('button', { name: /Colours/ }).click();
  await page.waitForFunction(() => document.documentElement.dataset.theme === 'dark');
  await page.goto(`${server}/query?g0.expr=up&g0.tab=graph`);
  await page.locator('.legend li').first().waitFor();
  await shoot('dark');
});

await browser.close();
console.log(`${passed} passed, 0 failed`);
