#!/usr/bin/env bash
# Builds the wheel from nothing and says how long that takes and how large it is; at most three minutes on two cores, and
# 8 MB, are wanted. What builds it (pip's environment of scikit-build-core, pybind11, CMake, Ninja) is fetched before.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q scikit-build-core pybind11 cmake ninja
export FASTUPDATE_CUDA=${FASTUPDATE_CUDA:-OFF} # the CUDA engine takes more of both, where there is nvcc
export PATH="$work/env/bin:$PATH" CCACHE_DISABLE=1 SKBUILD_BUILD_DIR="$work/build" CMAKE_BUILD_PARALLEL_LEVEL=2
start=$(date +%s)
pip wheel -q --no-deps --no-build-isolation -w "$work" "$root"
seconds=$(($(date +%s) - start))
wheel=$(ls "$work"/fastupdate-*.whl)
bytes=$(stat -c %s "$wheel")
unzip -l "$wheel" "fastupdate/_*.so" 2>/dev/null || python3 -m zipfile -l "$wheel" | grep "\.so"
echo "$(basename "$wheel"): $seconds s, $(awk "BEGIN { printf \"%.1f\", $bytes / 1e6 }") MB"
[ "$seconds" -le 180 ] && [ "$bytes" -le 8000000 ]
