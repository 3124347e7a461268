#!/usr/bin/env bash
# Builds what the cluster tests run against, once, into the cache: a real etcd, kube-apiserver and kubectl
# (one multi-call binary) and helm. About 10 minutes on two cores; prints the folder that holds them.
set -euo pipefail
cd "$(dirname "$0")/../tests/cluster"
. ../../.ci/env.sh
key=$(cat go.mod go.sum controlplane/main.go "$NARTHEX_ROOT/.ci/controlplane.sh" | sha256sum | cut -c1-16)
out=$NARTHEX_CACHE/controlplane-$key
if [ ! -e "$out/helm" ]; then
  echo "control plane: building etcd, kube-apiserver, kubectl and helm (about 10 minutes on two cores, once)" >&2
  version=v1.34.4
  stamp=""
  for p in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    stamp="$stamp -X $p.gitVersion=$version -X $p.gitMajor=1 -X $p.gitMinor=34 -X $p.gitTreeState=clean -X $p.buildDate=2026-01-01T00:00:00Z"
  done
  tmp=$(mktemp -d "$NARTHEX_CACHE/controlplane-build.XXXXXX")
  trap 'rm -rf "$tmp"' EXIT
  CGO_ENABLED=0 go build -trimpath -ldflags "-s -w $stamp" -o "$tmp/controlplane" ./controlplane >&2
  for name in etcd kube-apiserver kubectl; do ln -s controlplane "$tmp/$name"; done
  CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$tmp/helm" helm.sh/helm/v3/cmd/helm >&2
  mkdir -p "$out" && cp -a "$tmp/." "$out/"
fi
echo "$out"
