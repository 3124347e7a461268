#!/usr/bin/env bash
# Builds the Prometheus that differential tests compare with, and its promtool, once, into the cache (about 4
# minutes on two cores); prints the folder that holds them.
set -euo pipefail
cd "$(dirname "$0")/../tests/peers"
. ../../.ci/env.sh
out=$NARTHEX_CACHE/prometheus-$(cat go.mod go.sum "$NARTHEX_ROOT/.ci/prometheus.sh" | sha256sum | cut -c1-16)
if [ ! -e "$out/promtool" ]; then
  echo "prometheus: building it and promtool (about 4 minutes on two cores, once)" >&2
  tmp=$(mktemp -d "$NARTHEX_CACHE/prometheus-build.XXXXXX")
  trap 'rm -rf "$tmp"' EXIT
  CGO_ENABLED=0 go build -trimpath -tags netgo,remove_all_sd,enable_kubernetes_sd,enable_dns_sd,enable_consul_sd,enable_moby_sd,enable_nomad_sd \
    -ldflags "-s -w -X github.com/prometheus/common/version.Version=3.14.0" -o "$tmp/" \
    github.com/prometheus/prometheus/cmd/prometheus github.com/prometheus/prometheus/cmd/promtool >&2
  mkdir -p "$out" && cp -a "$tmp/." "$out/"
fi
echo "$out"
