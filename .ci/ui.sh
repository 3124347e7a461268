#!/usr/bin/env bash
# Builds the web page's committed files from scraper/server/ui; with --check, proves that they match their source.
set -euo pipefail
cd "$(dirname "$0")/../scraper/server/ui"
npm ci --silent --no-audit --no-fund --ignore-scripts=false
npm run --silent build
if [ "${1:-}" = --check ]; then
  cd ../../..
  if [ -n "$(git status --porcelain -- scraper/server/assets)" ]; then
    git status --short -- scraper/server/assets
    echo "scraper/server/assets does not match scraper/server/ui: run .ci/ui.sh and commit the result" >&2
    exit 1
  fi
fi
