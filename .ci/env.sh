# Sourced by the scripts of this project and, if you like, by your shell (`. .ci/env.sh`): where built
# prerequisites are kept, and the variables that let cargo find the RocksDB that .ci/rocksdb.sh builds.
NARTHEX_ROOT=${NARTHEX_ROOT:-$(git rev-parse --show-toplevel 2>/dev/null || pwd)}
export NARTHEX_ROOT
export NARTHEX_CACHE="${NARTHEX_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/narthex}"
mkdir -p "$NARTHEX_CACHE"

# bindgen (of librocksdb-sys) needs libclang.
if [ -z "${LIBCLANG_PATH:-}" ]; then
  for dir in /usr/lib/llvm-*/lib; do
    if [ -e "$dir/libclang.so.1" ] || [ -e "$dir/libclang.so" ]; then export LIBCLANG_PATH="$dir"; fi
  done
fi

# Without these three plain cargo builds RocksDB itself: correct, but 20 minutes on two cores instead of 5, and
# again for every target folder.
NARTHEX_ROCKSDB="$NARTHEX_CACHE/rocksdb-$(sed -n '/^name = "librocksdb-sys"$/{n;s/^version = "\(.*\)"$/\1/p;}' "$NARTHEX_ROOT/Cargo.lock")-$(uname -m)"
if [ -e "$NARTHEX_ROCKSDB/lib/librocksdb.a" ]; then
  export ROCKSDB_LIB_DIR="$NARTHEX_ROCKSDB/lib" ROCKSDB_INCLUDE_DIR="$NARTHEX_ROCKSDB/include" ROCKSDB_STATIC=1
fi
