#!/usr/bin/env bash
# Builds the RocksDB that the librocksdb-sys crate vendors, once, into a static library outside the target folder.
# A unity build (15 sources to a translation unit) takes 5 minutes on two cores; one by one, as the crate's own
# build script does, takes more than 20. Sources, defines and flags are the crate's.
set -euo pipefail
cd "$(dirname "$0")/.."
. .ci/env.sh
out=$NARTHEX_ROCKSDB
if [ -e "$out/lib/librocksdb.a" ]; then exit 0; fi

cargo fetch --locked --quiet
source_of() { # the folder of a crate's sources, by cargo's own word
  cargo metadata --format-version 1 --locked --offline |
    python3 -c 'import json,os,sys; print(next(os.path.dirname(p["manifest_path"]) for p in json.load(sys.stdin)["packages"] if p["name"]==sys.argv[1]))' "$1"
}
crate=$(source_of librocksdb-sys)
lz4=$(source_of lz4-sys)
zstd=$(source_of zstd-sys)

work=$(mktemp -d "$NARTHEX_CACHE/rocksdb-build.XXXXXX")
trap 'rm -rf "$work"' EXIT
grep -v '^util/build_version.cc$' "$crate/rocksdb_lib_sources.txt" | sed '/^[[:space:]]*$/d' | sort > "$work/sources"
split -d -a 3 -l 15 "$work/sources" "$work/unit."
for unit in "$work"/unit.*; do sed "s|^|#include \"$crate/rocksdb/|; s|\$|\"|" "$unit" > "$unit.cc"; done
cp "$crate/build_version.cc" "$work/unit.version.cc"

flags="-std=c++20 -O2 -fPIC -w -DNDEBUG -DLZ4=1 -DZSTD=1 -DHAVE_ALIGNED_NEW -DHAVE_UINT128_EXTENSION -DOS_LINUX
 -DROCKSDB_PLATFORM_POSIX -DROCKSDB_LIB_IO_POSIX -DROCKSDB_SCHED_GETCPU_PRESENT -DROCKSDB_AUXV_GETAUXVAL_PRESENT
 -DROCKSDB_FALLOCATE_PRESENT -DROCKSDB_RANGESYNC_PRESENT -include cstdint
 -I$crate/rocksdb/include -I$crate/rocksdb -I$crate/rocksdb/third-party/gtest-1.8.1/fused-src -I$crate
 -I$lz4/liblz4/lib -I$zstd/zstd/lib"
case "$(uname -m)" in # the log's CRC32C needs these, and every machine of the last fifteen years has them
  x86_64) flags="$flags -march=x86-64-v2 -mpclmul" ;;
  aarch64) flags="$flags -march=armv8-a+crc+aes+crypto" ;;
esac
units=("$work"/unit.*.cc)
echo "rocksdb: compiling ${#units[@]} units (about 5 minutes on two cores, once)" >&2
export flags
# shellcheck disable=SC2016
printf '%s\0' "${units[@]}" | xargs -0 -P "$(nproc)" -I{} sh -c '${CXX:-g++} $flags -c "$1" -o "$1.o" && echo "rocksdb: $(basename "$1" .cc) done" >&2' sh {}
mkdir -p "$work/lib"
ar crs "$work/lib/librocksdb.a" "$work"/*.o
cp -r "$crate/rocksdb/include" "$work/include"
mkdir -p "$out"
cp -r "$work/include" "$out/"
mkdir -p "$out/lib"
mv "$work/lib/librocksdb.a" "$out/lib/librocksdb.a"
echo "rocksdb: $out/lib/librocksdb.a" >&2
