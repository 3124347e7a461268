#!/usr/bin/env bash
# Licences, banned crates and sources by cargo-deny, which is installed once into the cache.
set -euo pipefail
cd "$(dirname "$0")/.."
. .ci/env.sh
if ! "$NARTHEX_CACHE/tools/bin/cargo-deny" --version >/dev/null 2>&1; then
  echo "installing cargo-deny (some minutes, once)"
  build=$(mktemp -d)
  trap 'rm -rf "$build"' EXIT
  cargo install --quiet --locked cargo-deny --root "$NARTHEX_CACHE/tools" --target-dir "$build"
fi
# cargo-deny reads what cargo has fetched: a crate that is new here may not be there yet.
cargo fetch --locked --quiet
PATH="$NARTHEX_CACHE/tools/bin:$PATH" cargo deny --offline --log-level error --config .deny.toml check licenses bans sources
