// Bundles src/ into ../assets, which the Rust build embeds. The output is committed, so that building the server
// needs no Node; `.ci/ui.sh --check` proves that it matches this source.
import { build, context } from 'esbuild';
import { copyFile, mkdir } from 'node:fs/promises';

const out = new URL('../assets/', import.meta.url).pathname;
await mkdir(out, { recursive: true });
const options = {
  entryPoints: ['src/app.tsx'],
  outdir: out,
  bundle: true,
  minify: true,
  format: 'esm',
  target: 'es2022',
  jsx: 'automatic',
  jsxImportSource: 'preact',
  legalComments: 'none',
  logLevel: 'info',
};
for (const file of ['index.html', 'favicon.svg']) await copyFile(`src/${file}`, out + file);
if (process.argv.includes('--watch')) await (await context(options)).watch();
else await build(options);
