#!/usr/bin/env bash
# packages.sh [build] [test]: installs the Debian packages that building, or testing, needs. Prints what it does, and
# what to install by hand where it may not.
set -euo pipefail
want=()
for set in "$@"; do
  case "$set" in
    build) want+=(gcc g++ make pkg-config python3 libclang-14-dev ca-certificates) ;;
    demo) want+=(prometheus-node-exporter curl) ;;
    test) want+=(prometheus-node-exporter chromium chromium-driver iproute2 util-linux curl) ;;
    *) echo "packages.sh: unknown set $set" >&2; exit 2 ;;
  esac
done
missing=()
for p in "${want[@]}"; do
  dpkg-query -W -f='${Status}\n' "$p" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$p")
done
[ ${#missing[@]} -gt 0 ] || exit 0
sudo=
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "please install as root: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  sudo=sudo
fi
echo "installing: ${missing[*]}"
$sudo apt-get update -qq
# Services that the packages bring are not started: tests and the demonstration start their own.
DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
