// Drives every page in a real Chromium against a running server: `node test/pages.mjs http://127.0.0.1:9090 [FOLDER]`.
// The server has to scrape itself as job `narthex`, and as job `app` a target with a classic histogram request_seconds
// that has exemplars, series many{i=…} of which there are 600, odd{…} with unusual values and names, and native
// histograms of job `custom`; one target of job `down` must be down, one of job `app` dropped by the relabelling rule
// that has a `drop`. The admin API must be on. With FOLDER, screenshots at three sizes are kept there. Ends with a
// count; exits 1 at the first page that does not show what it must.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { chromium } from 'playwright-core';

const [server, folder] = process.argv.slice(2);
if (folder) await mkdir(folder, { recursive: true });
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});
const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, timezoneId: 'Asia/Kolkata', colorScheme: 'light' });
const page = await context.newPage();
page.setDefaultTimeout(20000);
const faults = [];
page.on('pageerror', (error) => faults.push(String(error)));
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

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

const SIZES = [['wide', 1440, 900], ['tablet', 820, 1180], ['phone', 390, 844]];

/** The page as it stands has no part wider than the screen at any size, and no fault that axe knows (WCAG A and AA) in either scheme. */
async function accessible(name) {
  for (const [size, width, height] of SIZES) {
    await page.setViewportSize({ width, height });
    // What watches its own size (the plot) follows a moment later.
    await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
    const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(over <= 0, `${name} is ${over} px wider than a ${size} screen`);
    if (folder) await page.screenshot({ path: `${folder}/${name}-${size}.png` });
  }
  await page.setViewportSize({ width: 1280, height: 900 });
  if (!(await page.evaluate(() => 'axe' in window))) await page.evaluate(axe);
  // Names and roles are the same in both schemes.
  for (const [colorScheme, runOnly] of [['dark', { type: 'rule', values: ['color-contrast'] }], ['light', { type: 'tag', values: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa'] }]]) {
    await page.emulateMedia({ colorScheme });
    const violations = await page.evaluate(async (runOnly) => {
      const { violations } = await window.axe.run(document, { runOnly, resultTypes: ['violations'] });
      return violations.map((v) => `${v.id}: ${v.nodes.slice(0, 3).map((n) => `${n.html.slice(0, 150)} ${n.failureSummary.slice(0, 250)}`).join(' | ')}`);
    }, runOnly);
    assert.deepEqual(violations, [], `${name}, ${colorScheme}`);
  }
}

const editor = () => page.locator('.cm-content').first();
const query = (expr, more = {}) => `${server}/query?${new URLSearchParams({ 'g0.expr': expr, 'g0.tab': 'table', ...Object.fromEntries(Object.entries(more).map(([k, v]) => [`g0.${k}`, v])) })}`;
const inUrl = (name) => new URL(page.url()).searchParams.get(`g0.${name}`);
const rows = () => page.locator('table.result tr');
const option = async (name) => {
  await page.getByRole('button', { name: 'Query options' }).first().click();
  await page.getByRole('button', { name, exact: true }).click();
};
const setting = async (menu, name) => {
  await page.getByRole('button', { name: menu, exact: true }).click();
  await page.getByLabel(name).click();
  await page.keyboard.press('Escape');
};
const ask = async (path) => (await (await fetch(`${server}${path}`)).json()).data;

await check('/ leads to the query page, which says what to do', async () => {
  await page.goto(`${server}/`);
  await page.waitForURL('**/query**');
  await editor().waitFor();
  assert.match(await page.title(), /^Query · /);
  await page.getByText('No data queried yet.').waitFor();
  await accessible('empty');
});

await check('a typed query shows a table', async () => {
  // The empty editor has the focus.
  await page.keyboard.type('up');
  await page.keyboard.press('Escape');
  await page.keyboard.press('Enter');
  await rows().first().waitFor();
  assert.match(await page.locator('table.result').innerText(), /up\{.*\}/);
  assert.equal(inUrl('expr'), 'up');
  assert.match(await page.locator('.cost').innerText(), /Load time: .*Result series: \d+/s);
  await page.locator('.cost summary').click();
  assert.match(await page.locator('.cost').innerText(), /Samples read\s+\d+[^]*In total/);
  await accessible('table');
});

await check('completion offers metric names, and expressions that were run', async () => {
  await editor().click();
  await page.keyboard.press('Control+A');
  await page.keyboard.type('u', { delay: 40 });
  await page.locator('.cm-tooltip-autocomplete li', { hasText: 'past query' }).first().waitFor();
  await page.keyboard.press('Control+A');
  await page.keyboard.type('scrape_dur', { delay: 40 });
  await page.locator('.cm-tooltip-autocomplete li', { hasText: 'scrape_duration_seconds' }).first().waitFor();
  await accessible('completion');
});

await check('unusual names and values are written as expressions have them', async () => {
  await page.goto(query('{__name__=~"odd.*"}'));
  await rows().first().waitFor();
  const text = await page.locator('table.result').innerText();
  for (const part of ['NaN', '+Inf', '1.2345e+30', '{"odd.name", "a b"="x", instance', 'path="C:\\\\dir \\"quoted\\"\\nline"']) assert.ok(text.includes(part), `${part} in ${text}`);
});

await check('a large table stays small in the page', async () => {
  await page.goto(query('many'));
  await rows().first().waitFor();
  assert.equal(await rows().count(), 250);
  await page.getByRole('button', { name: /^Show \d+ more$/ }).click();
  assert.equal(await rows().count(), 600);
});

await check('a native histogram is a chart with its buckets', async () => {
  await page.goto(query('request_seconds{job="custom"}'));
  await page.locator('.bars').first().waitFor();
  const widths = () => page.locator('.bars').first().locator('.bar-slot').evaluateAll((bars) => bars.map((b) => b.style.width));
  const before = await widths();
  assert.equal(before.length, 4);
  await page.getByLabel('Scale of the chart').selectOption('linear');
  assert.notDeepEqual(await widths(), before);
  await page.locator('.buckets summary').click();
  assert.match(await page.locator('.buckets').innerText(), /\(0\.1, 1\]/);
  await accessible('histogram');
});

await check('an error is shown in the server’s words', async () => {
  await page.goto(query('sum('));
  assert.match(await page.locator('.notice.error').innerText(), /parse error/);
});

await check('warnings and notices are shown, and can be switched off', async () => {
  await page.goto(query('sum(rate(many[1m]))'));
  await page.locator('.notice.info', { hasText: 'might not be a counter' }).waitFor();
  await accessible('notices');
  await setting('Settings', 'Show query notices');
  await page.locator('.notice.info').waitFor({ state: 'detached' });
  await setting('Settings', 'Show query notices');
});

await check('the graph tab draws the series', async () => {
  await page.goto(query('up', { range_input: '1m' }));
  await page.getByRole('tab', { name: 'Table' }).focus();
  await page.keyboard.press('ArrowRight');
  await page.locator('.legend li').first().waitFor();
  const series = Number(await page.locator('.graph').getAttribute('data-series'));
  assert.equal(await page.locator('.legend li').count(), series);
  assert.ok(series > 1);
  // The canvas holds more than background: some pixel has the last series' colour (which may hide the others).
  const drawn = () => page.evaluate(() => {
    const canvas = document.querySelector('.plot canvas');
    const colour = getComputedStyle([...document.querySelectorAll('.legend .swatch')].at(-1)).backgroundColor.match(/\d+/g).map(Number);
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    let count = 0;
    for (let i = 0; i < data.length; i += 4)
      if (data[i + 3] > 200 && Math.abs(data[i] - colour[0]) + Math.abs(data[i + 1] - colour[1]) + Math.abs(data[i + 2] - colour[2]) < 24) count++;
    return count;
  });
  assert.ok((await drawn()) > 0, 'no pixel of the last series');
  // Only the first series, then all of them again.
  const pressed = () => page.locator('.legend li button[aria-pressed="true"]').count();
  await page.locator('.legend li button').first().click();
  assert.equal(await pressed(), 1);
  await page.waitForTimeout(100);
  assert.equal(await drawn(), 0, 'a hidden series is drawn');
  await page.locator('.legend li button').first().click();
  assert.equal(await pressed(), series);
  await page.locator('.legend li button').first().click({ modifiers: ['Control'] });
  assert.equal(await pressed(), series - 1);
  await accessible('graph');
});

await check('the cursor tells time, value and labels; dragging zooms', async () => {
  const { x, y, width, height } = await page.locator('.u-over').boundingBox();
  await page.mouse.move(x + width - 30, y + height / 2);
  assert.match(await page.locator('.hover-box').innerText(), /\d{4}-\d\d-\d\d \d\d:\d\d:\d\d.* UTC\s+[01]\s+up\s+instance: /);
  await page.mouse.down();
  await page.mouse.move(x + width / 2, y + height / 2, { steps: 4 });
  await page.mouse.up();
  await page.waitForFunction(() => new URL(location.href).searchParams.has('g0.end_input'));
  const seconds = Number(inUrl('range_input').replace('s', ''));
  assert.ok(seconds > 20 && seconds < 40, inUrl('range_input'));
  await page.goBack();
  await page.waitForFunction(() => !new URL(location.href).searchParams.has('g0.end_input'));
});

await check('range, resolution, stacking, axis and time are chosen and stand in the URL', async () => {
  await page.getByRole('button', { name: 'Longer range' }).click();
  assert.equal(inUrl('range_input'), '5m');
  await page.getByLabel('Range', { exact: true }).last().fill('1h30m');
  await page.keyboard.press('Enter');
  assert.equal(inUrl('range_input'), '1h30m');
  await page.getByLabel('Resolution').selectOption('high');
  assert.equal(inUrl('res_density'), 'high');
  await page.getByText('Resolution: 7s').waitFor();
  await page.getByLabel('Resolution').selectOption('Every 1m');
  assert.deepEqual([inUrl('res_type'), inUrl('res_step')], ['fixed', '60']);
  await page.getByLabel('Resolution').selectOption('custom');
  await page.getByLabel('Step').fill('45s');
  await page.keyboard.press('Enter');
  assert.deepEqual([inUrl('res_type'), inUrl('res_step')], ['custom', '45']);
  await page.getByRole('button', { name: 'Stacked' }).click();
  assert.equal(inUrl('display_mode'), 'stacked');
  await setting('Graph settings', 'Start the value axis at 0');
  assert.equal(inUrl('y_axis_min'), '0');
  await page.getByLabel('End time', { exact: true }).last().fill('2026-01-31 23:59');
  await page.keyboard.press('Enter');
  assert.equal(inUrl('end_input'), '2026-01-31 23:59:00');
  await page.getByRole('button', { name: 'Earlier by 45m' }).click();
  assert.equal(inUrl('end_input'), '2026-01-31 23:14:00');
  await page.getByText('Empty query result.').waitFor();
});

await check('a link made by Prometheus opens the same', async () => {
  const link = 'g0.expr=many&g0.show_tree=0&g0.tab=graph&g0.end_input=2026-11-01%2012%3A00%3A00&g0.moment_input=2026-11-01%2012%3A00%3A00&g0.range_input=2h&g0.res_type=fixed&g0.res_step=60&g0.display_mode=stacked&g0.y_axis_min=0&g0.show_exemplars=1'
    + '&g1.expr=up&g1.show_tree=0&g1.tab=table&g1.range_input=1h&g1.res_type=auto&g1.res_density=low&g1.display_mode=lines&g1.show_exemplars=0';
  const asked = page.waitForRequest((r) => r.url().endsWith('/query_range'));
  await page.goto(`${server}/graph?${link}`);
  await page.waitForURL('**/query?**');
  const params = new URLSearchParams((await asked).postData());
  assert.deepEqual(Object.fromEntries(params), { query: 'many', start: String(Date.UTC(2026, 10, 1, 10) / 1000), end: String(Date.UTC(2026, 10, 1, 12) / 1000), step: '60', stats: 'all' });
  assert.equal(await page.locator('section.panel').count(), 2);
  assert.equal(await page.getByRole('button', { name: 'Stacked' }).getAttribute('aria-pressed'), 'true');
  // And what this page writes is what Prometheus reads: nothing is lost on the way.
  await page.getByRole('tab', { name: 'Graph' }).last().click();
  const written = new URL(page.url()).searchParams;
  for (const [name, value] of new URLSearchParams(link)) assert.equal(written.get(name), name === 'g1.tab' ? 'graph' : value, name);
  await accessible('panels');
});

await check('links of Prometheus 2 open, too', async () => {
  await page.goto(`${server}/graph?g0.expr=up&g0.tab=0&g0.stacked=1&g0.range_input=30m&g0.step_input=30`);
  await page.locator('.legend li').first().waitFor();
  await page.getByText('Resolution: 30s').waitFor();
  assert.equal(await page.getByRole('button', { name: 'Stacked' }).getAttribute('aria-pressed'), 'true');
});

await check('many series are drawn and hovered without many elements', async () => {
  await page.goto(query('many', { tab: 'graph', range_input: '1m' }));
  await page.getByText('The first 500 of 600 series are drawn.').waitFor();
  const { x, y, width, height } = await page.locator('.u-over').boundingBox();
  await page.mouse.move(x + width - 30, y + height / 2);
  await page.locator('.hover-box').waitFor();
  const elements = await page.evaluate(() => document.querySelectorAll('*').length);
  assert.ok(elements < 3000, `${elements} elements`);
});

await check('of a range selector the selector is drawn', async () => {
  await page.goto(query('up[5m] offset 1s', { tab: 'graph', range_input: '1m' }));
  await page.locator('.notice.warning code', { hasText: /^up offset 1s$/ }).waitFor();
  await page.locator('.legend li').first().waitFor();
});

await check('exemplars stand on the graph', async () => {
  await page.goto(query('rate(request_seconds_bucket[10s])', { tab: 'graph', range_input: '5m', show_exemplars: '1' }));
  await page.locator('.exemplar').first().waitFor();
  await page.locator('.exemplar').last().dispatchEvent('click');
  assert.match(await page.locator('.exemplar-facts').innerText(), /trace_id/);
});

await check('the tree shows each part; a picked one is shown and explained', async () => {
  await page.goto(query('sum by (job) (rate(up[5m])) > 1', { tab: 'explain' }));
  await page.getByRole('button', { name: 'show the tree view' }).click();
  assert.equal(inUrl('show_tree'), '1');
  await page.locator('.tree .node').first().waitFor();
  // sum, rate, its range selector, the comparison and its number.
  assert.deepEqual(await page.locator('.tree .node').allInnerTexts(), ['sum by (job) (rate(up[5m])) > 1', 'sum by (job) (rate(up[5m]))', 'rate(up[5m])', 'up[5m]', '1']);
  await page.waitForFunction(() => [...document.querySelectorAll('.tree .count')].filter((c) => /\d+ results?/.test(c.textContent)).length === 4);
  await page.locator('.tree .node').nth(1).click();
  await page.getByText('Series are put together that agree in job').waitFor();
  await page.locator('.tree .node').nth(2).click();
  await page.getByText('rate(matrix) gives a vector').waitFor();
  await accessible('tree');
  await page.getByRole('tab', { name: 'Table' }).click();
  await rows().first().waitFor();
  assert.doesNotMatch(await page.locator('table.result').innerText(), /up\{/);
  assert.ok((await rows().count()) > 1);
  assert.equal(inUrl('expr'), 'sum by (job) (rate(up[5m])) > 1');
});

await check('the trace shows what the server did, over a range and at one time', async () => {
  await page.goto(query('sum by (job) (rate(up[5m])) > 1', { tab: 'trace', range_input: '5m' }));
  const steps = () => page.getByRole('list', { name: 'Steps' }).innerText();
  await page.getByText('/api/v1/query_range: start=').waitFor();
  const all = page.getByRole('button', { name: 'Show all' });
  if (await all.count()) await all.click();
  for (const part of [/parse/, /wait for a slot of the class adhoc/, /select \{.*up.*\} from \d+ to \d+: series \d/, /read, while it is evaluated: series \d+, samples \d+/, /sum: sum by \(job\) \(rate\(up\[5m\]\)\): steps \d+, series \d/, /write the answer/])
    assert.match(await steps(), part);
  assert.equal(inUrl('tab'), 'trace');
  await accessible('trace');
  await page.getByRole('button', { name: 'At one time' }).click();
  await page.getByText('/api/v1/query: time=').waitFor();
  await page.goto(query('sum(', { tab: 'trace' }));
  await page.getByRole('alert').filter({ hasText: 'parse error' }).first().waitFor();
});

await check('explaining an operator shows which series find a partner', async () => {
  await page.goto(query('up * on (job) group_left () count by (job) (up{job!="down"})', { tab: 'explain' }));
  await page.getByRole('heading', { name: '3 of 4 groups match' }).waitFor();
  await page.getByText('no partner on the right').waitFor();
  await accessible('explain');
});

await check('the expression is formatted', async () => {
  await page.goto(query('sum(up)by(job)'));
  await option('Format expression');
  await page.waitForFunction(() => document.querySelector('.cm-content').textContent === 'sum by (job) (up)');
});

await check('the metrics explorer finds a metric, narrows its labels and runs it', async () => {
  await page.goto(`${server}/query`);
  await page.getByRole('button', { name: 'explore the metrics' }).click();
  await page.getByRole('searchbox').fill('scrape dur');
  await page.getByRole('button', { name: 'scrape_duration_seconds', exact: true }).waitFor();
  await accessible('explorer');
  await page.getByRole('button', { name: 'Labels of scrape_duration_seconds', exact: true }).click();
  await page.locator('.labels-of').getByRole('button', { name: 'narthex', exact: true }).click();
  await page.getByText('1 series').waitFor();
  await accessible('labels');
  await page.getByRole('button', { name: 'Query this' }).click();
  await rows().first().waitFor();
  assert.equal(inUrl('expr'), 'scrape_duration_seconds{job="narthex"}');
});

await check('the metrics explorer inserts at the cursor', async () => {
  await page.goto(`${server}/query`);
  await editor().click();
  await page.keyboard.type('sum()');
  await page.keyboard.press('Escape');
  await page.keyboard.press('ArrowLeft');
  await option('Explore metrics');
  await page.getByRole('searchbox').fill('scrape dur');
  await page.getByRole('button', { name: 'Insert scrape_duration_seconds', exact: true }).click();
  assert.equal(await editor().innerText(), 'sum(scrape_duration_seconds)');
});

await check('history brings an expression back', async () => {
  await page.goto(`${server}/query`);
  await page.getByRole('button', { name: 'History' }).click();
  await accessible('history');
  await page.locator('.history .option', { hasText: /^up$/ }).click();
  await rows().first().waitFor();
  assert.equal(inUrl('expr'), 'up');
});

await check('panels are added, copied and removed', async () => {
  await page.getByRole('button', { name: 'Add query' }).click();
  assert.equal(await page.locator('section.panel').count(), 2);
  await option('Duplicate query');
  assert.equal(await page.locator('section.panel').count(), 3);
  assert.equal(new URL(page.url()).searchParams.get('g1.expr'), 'up');
  await option('Remove query');
  assert.equal(await page.locator('section.panel').count(), 2);
});

await check('a slow query says how long it runs, and is cancelled', async () => {
  const slow = (route) => setTimeout(() => route.continue().catch(() => {}), 15000);
  await page.route('**/api/v1/query', slow);
  await page.goto(query('up'));
  const failed = page.waitForEvent('requestfailed', (r) => r.url().endsWith('/api/v1/query'));
  await page.getByRole('button', { name: /^Cancel \d/ }).click();
  await failed;
  await page.locator('.notice.error', { hasText: 'Cancelled.' }).waitFor();
  await page.unroute('**/api/v1/query', slow);
});

await check('a server that does not answer, or starts, is told of; the page goes on when it is back', async () => {
  await page.goto(query('up'));
  await rows().first().waitFor();
  const gone = (route) => route.abort();
  await page.route('**/*', gone);
  await page.getByRole('button', { name: 'Execute' }).click();
  await page.locator('.notice', { hasText: 'Narthex does not answer.' }).waitFor();
  await page.locator('.notice', { hasText: 'Error executing query: The server does not answer.' }).waitFor();
  assert.ok((await rows().count()) > 0, 'the old answer is gone');
  await page.unroute('**/*', gone);
  const starting = (route) => route.fulfill({ status: 503, headers: { 'x-prometheus-stopping': 'false' }, body: 'Service Unavailable' });
  await page.route('**/-/ready', starting);
  await page.locator('.notice', { hasText: 'Narthex is starting up.' }).waitFor();
  await page.unroute('**/-/ready', starting);
  await rows().first().waitFor();
  assert.equal(await page.locator('.notice').count(), 0);
});

await check('the clock can be the browser’s', async () => {
  await page.goto(query('up', { moment_input: '2026-01-31 12:00:00' }));
  const field = page.getByLabel('Evaluation time', { exact: true }).last();
  assert.equal(await field.inputValue(), '2026-01-31 12:00:00');
  await setting('Settings', 'Use local time');
  await page.waitForFunction(() => [...document.querySelectorAll('input')].some((i) => i.value === '2026-01-31 17:30:00'));
  assert.equal(inUrl('moment_input'), '2026-01-31 12:00:00');
  await setting('Settings', 'Use local time');
});

await check('targets are listed with their state, and filtered by it, by pool and by words', async () => {
  await page.goto(`${server}/targets`);
  await page.getByText('Error scraping target:').waitFor();
  await accessible('targets');
  const listed = () => page.locator('.targets tbody tr').count();
  const all = await listed();
  await page.getByRole('group', { name: 'Health' }).getByRole('button', { name: /^down/ }).click();
  assert.equal(await listed(), 1);
  assert.match(page.url(), /health=down/);
  await page.reload();
  await page.getByText('Error scraping target:').waitFor();
  assert.equal(await listed(), 1);
  await page.getByRole('group', { name: 'Health' }).getByRole('button', { name: /^down/ }).click();
  assert.equal(await listed(), all);
  await page.getByLabel('Scrape pool').selectOption('narthex');
  assert.equal(await listed(), 1);
  await page.getByRole('searchbox').fill('no such target anywhere');
  await page.getByText('1 pool has no matching targets.').waitFor();
  await page.getByRole('searchbox').fill('');
  await page.getByRole('button', { name: 'Show configuration' }).click();
  await page.locator('.pool .yaml', { hasText: 'job_name: narthex' }).waitFor();
});

await check('relabelling is shown step by step', async () => {
  await page.goto(`${server}/targets?pool=narthex`);
  await page.getByRole('button', { name: 'Show discovered labels' }).click();
  await page.getByRole('button', { name: 'Show relabelling' }).click();
  await page.locator('.steps ins', { hasText: 'red' }).waitFor();
  await accessible('relabelling');
  await page.keyboard.press('Escape');
  await page.locator('dialog').waitFor({ state: 'detached' });
  await page.goto(`${server}/service-discovery`);
  await page.getByText('1 / 2 active').waitFor();
  await accessible('service-discovery');
  await page.getByRole('button', { name: 'dropped', exact: true }).click();
  assert.equal(await page.locator('.discovered-targets tbody tr').count(), 1);
  await page.getByRole('button', { name: 'Show relabelling' }).click();
  await page.getByText('drops the target').waitFor();
});

await check('TSDB status leads to queries', async () => {
  await page.goto(`${server}/tsdb-status`);
  const card = page.locator('.card', { has: page.getByRole('heading', { name: 'Top 10 metric names by series' }) });
  await card.getByText('many').waitFor();
  await accessible('tsdb-status');
  await card.getByRole('link', { name: 'many' }).click();
  await rows().first().waitFor();
});

await check('series are deleted, after a question', async () => {
  await page.goto(`${server}/tsdb-status`);
  page.once('dialog', (dialog) => dialog.accept());
  await page.getByLabel('Selectors, one per line').fill('doomed{n="1"}\ndoomed{n="2"}');
  await page.getByRole('button', { name: 'Delete series' }).click();
  await page.locator('.notice.good', { hasText: 'Deleted: all samples of doomed{n="1"}, doomed{n="2"}' }).waitFor();
  // They are scraped again at once: what is gone are the samples from before.
  const left = await ask('/api/v1/query?query=count_over_time(doomed[1h])');
  const count = (n) => Number(left.result.find((r) => r.metric.n === n)?.value[1] ?? 0);
  assert.ok(count('3') > 4 && count('1') < count('3') - 2 && count('2') < count('3') - 2, JSON.stringify(left.result));
});

await check('where the admin API is off, nothing can be deleted, and the page says why', async () => {
  const off = (route) => route.fulfill({ json: { status: 'success', data: { api: { admin: false } } } });
  await page.route('**/api/v1/features', off);
  await page.goto(`${server}/tsdb-status`);
  await page.getByText('--web.enable-admin-api').waitFor();
  assert.ok(await page.getByRole('button', { name: 'Clean tombstones' }).isDisabled());
  await page.unroute('**/api/v1/features', off);
});

await check('an active query is listed and cancelled', async () => {
  const list = [{ id: 7, query: 'sum(rate(many[1d]))', client: '10.0.0.9', path: '/api/v1/query_range', class: 'dashboard', running: false, seconds: 12.3 }];
  const active = (route) => route.fulfill({ json: { status: 'success', data: list } });
  await page.route('**/api/v1/status/active_queries', active);
  await page.goto(`${server}/active-queries`);
  await page.getByText('12.3s').waitFor();
  await page.getByText('waiting').waitFor();
  await page.getByText('/api/v1/query_range, dashboard').waitFor();
  await page.locator('.top-queries tbody tr').first().waitFor();
  await accessible('active-queries');
  const order = page.waitForRequest((r) => r.url().endsWith('/admin/cancel_query'));
  await page.getByRole('button', { name: 'Cancel' }).click();
  assert.equal((await order).postData(), 'id=7');
  await page.unroute('**/api/v1/status/active_queries', active);
});

await check('the costliest queries are listed, in any order, and open', async () => {
  const probe = 'sum(many) + vector(12345)';
  for (let i = 0; i < 3; i++) await ask(`/api/v1/query?query=${encodeURIComponent(probe)}`);
  const last = await ask('/api/v1/status/top_queries?topN=1000');
  const found = last.topByCount.find((q) => q.query === probe);
  assert.ok(found.count === 3 && found.sumDurationSeconds > 0 && found.samples >= 3 * 600, JSON.stringify(found));
  await page.goto(`${server}/active-queries`);
  const queries = () => page.locator('.top-queries tbody tr');
  await queries().first().waitFor();
  const counts = page.waitForFunction(() => {
    const counts = [...document.querySelectorAll('.top-queries tbody tr td:nth-child(2)')].map((c) => Number(c.textContent.replaceAll(',', '')));
    return counts.length > 1 && counts.every((n, i) => i === 0 || n <= counts[i - 1]);
  });
  await page.getByLabel('Order').selectOption('Asked most often');
  await counts;
  const all = page.waitForResponse((r) => r.url().includes('maxLifetime=1d'));
  await page.getByLabel('Period').selectOption('In the last day');
  await all;
  const expr = await queries().first().locator('code').first().innerText();
  await queries().first().getByRole('link').click();
  await page.waitForURL('**/query?**');
  assert.equal(inUrl('expr'), expr);
});

await check('flags are found', async () => {
  await page.goto(`${server}/flags`);
  await page.getByRole('searchbox').fill('storage.tsdb.path');
  assert.deepEqual(await page.locator('.list tbody tr td:first-child').allInnerTexts(), ['--storage.tsdb.path']);
});

await check('the configuration is copied', async () => {
  await context.grantPermissions(['clipboard-read', 'clipboard-write']);
  await page.goto(`${server}/config`);
  await page.getByRole('button', { name: 'Copy' }).click();
  await page.getByText('Copied').waitFor();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), (await ask('/api/v1/status/config')).yaml);
});

for (const [path, text] of [
  ['status', /Last successful configuration reload/],
  ['flags', /--storage\.tsdb\.path/],
  ['config', /scrape_configs:/],
  ['active-queries', /No query is being evaluated|Running for/],
  ['alertmanager-discovery', /No Alertmanager is known/],
  ['alerts', /No alerts/],
  ['rules', /No rule groups/],
]) {
  await check(`/${path} shows its facts`, async () => {
    await page.goto(`${server}/${path}`);
    await page.waitForFunction((source) => new RegExp(source).test(document.querySelector('main').textContent), text.source);
    assert.equal(await page.locator('.notice.error').count(), 0);
    await accessible(path);
  });
}

await check('the menu leads to every page by keyboard', async () => {
  await page.goto(`${server}/query`);
  await page.getByRole('button', { name: /^Status/ }).focus();
  await page.keyboard.press('Enter');
  const links = page.locator('.menu-box a');
  assert.equal(await links.count(), 9);
  await accessible('menu');
  await page.keyboard.press('Tab');
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'Target health' }).waitFor();
  assert.equal(await links.count(), 0);
  await page.goBack();
  await editor().waitFor();
});

await check('a page that fails leaves the frame standing', async () => {
  const broken = (route) => route.fulfill({ json: { status: 'success', data: { activeTargets: 1 } } });
  await page.route('**/api/v1/targets?*', broken);
  await page.goto(`${server}/targets`);
  await page.locator('.notice.error', { hasText: 'This page failed' }).waitFor();
  await page.unroute('**/api/v1/targets?*', broken);
  await page.getByRole('button', { name: 'Try again' }).click();
  await page.locator('.targets').first().waitFor();
});

await check('a note of the server stands on every page', async () => {
  await page.route('**/api/v1/notifications/live', (route) =>
    route.fulfill({ contentType: 'text/event-stream', body: 'data: {"text":"Configuration reload has failed.","date":"2026-01-01T00:00:00Z","active":true}\n\n' }));
  await page.goto(`${server}/flags`);
  await page.locator('.notice.warning', { hasText: 'Configuration reload has failed.' }).waitFor();
  await page.unroute('**/api/v1/notifications/live');
});

await check('the colour scheme is chosen, and kept', async () => {
  await page.getByRole('button', { name: /Colours: auto/ }).click();
  await page.getByRole('button', { name: /Colours: light/ }).click();
  await page.reload();
  await page.waitForFunction(() => document.documentElement.dataset.theme === 'dark');
});

await check('the first draw is below 300 kB', async () => {
  let size = 0;
  for (const path of ['query', 'assets/app.js', 'assets/app.css', 'favicon.svg']) {
    const response = await fetch(`${server}/${path}`, { headers: { 'accept-encoding': 'gzip' } });
    size += Number(response.headers.get('content-length') ?? (await response.arrayBuffer()).byteLength);
  }
  console.log(`   ${size} bytes`);
  assert.ok(size < 300000, `${size} bytes`);
});

await browser.close();
console.log(`${passed} passed, 0 failed`);
