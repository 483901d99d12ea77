#!/usr/bin/env bash
# The same bits on x86-64 (every level) and on aarch64 (cross-compiled, run by qemu-user): prints a digest for each and
# fails if two differ. Needs g++, cmake, ninja; aarch64 besides: apt-get install g++-aarch64-linux-gnu qemu-user.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

build() { # name, processor, compiler
  local dir=$work/$1
  cmake -S "$root/tests/cross" -B "$dir" -G Ninja -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR="$2" \
    -DCMAKE_CXX_COMPILER="$3" -DCMAKE_BUILD_TYPE=Release -DCMAKE_EXE_LINKER_FLAGS=-static >"$dir.log"
  cmake --build "$dir" >>"$dir.log" || { cat "$dir.log"; exit 1; }
}

build x86 x86_64 g++
"$work/x86/bits" | sed 's/^/x86-64 /' | tee "$work/digests"
if command -v aarch64-linux-gnu-g++ >/dev/null && command -v qemu-aarch64 >/dev/null; then
  build arm aarch64 aarch64-linux-gnu-g++
  qemu-aarch64 "$work/arm/bits" | sed 's/^/aarch64 /' | tee -a "$work/digests"
else
  echo "aarch64: not compared, for there is no cross compiler or no qemu-user"
fi
test "$(awk '{print $NF}' "$work/digests" | sort -u | wc -l)" = 1 && echo "the same bits"
