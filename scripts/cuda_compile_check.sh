#!/usr/bin/env bash
# Compiles every CUDA kernel for one architecture, warnings being errors, and prints registers; fails on spills, on
# contraction, and where an update's machine code does not access its arrays 16 bytes at a time. Needs nvcc and no GPU.
# usage: cuda_compile_check.sh [sm_90 [rules …]]
set -euo pipefail
cd "$(dirname "$0")/.."
arch=${1:-sm_90}
shift || true
rules=("$@")
command -v nvcc >/dev/null || { echo "nvcc is not on PATH: no kernel was compiled"; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mapfile -t every < <(python3 fastupdate/rules/emit "$work")
[ ${#rules[@]} -gt 0 ] || rules=("${every[@]}")
for rule in "${rules[@]}"; do
  sed "s/@RULE@/$rule/g" csrc/cuda/rule.cu.in >"$work/$rule.cu"
  echo "FASTUPDATE_ENTRY($rule)" >>"$work/rules.inc"
done
cp csrc/cuda/kernels.cu csrc/cuda/runtime.cu "$work"

compile() {
  nvcc -std=c++17 -O3 -arch="$arch" -fmad=false -DFASTUPDATE_TARGET=cuda -Icsrc -I"$work" -Werror all-warnings \
    -Xptxas -v --keep --keep-dir "$1.keep" -c "$1.cu" -o "$1.o" >"$1.log" 2>&1 ||
    { grep -v '^ptxas info' "$1.log"; return 1; }
}
export -f compile
export arch work
for file in "$work"/*.cu; do mkdir "${file%.cu}.keep"; done
printf '%s\n' "$work"/*.cu | sed 's/\.cu$//' | xargs -P "$(nproc)" -I{} bash -euc 'compile "$1"' _ {}
echo "$arch: ${rules[*]}"
python3 scripts/cuda_code.py "$work"
