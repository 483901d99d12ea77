#!/usr/bin/env bash
# Compiles every CUDA kernel for one architecture, warnings being errors, and prints registers; fails on spills and where a
# plain update does not access its arrays 16 bytes at a time. Needs nvcc and no GPU. usage: cuda_compile_check.sh [sm_90]
set -euo pipefail
cd "$(dirname "$0")/.."
arch=${1:-sm_90}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
command -v nvcc >/dev/null || { echo "nvcc is not on PATH"; exit 1; }

for header in csrc/rules/*.h; do
  rule=$(basename "$header" .h)
  sed "s/@RULE@/$rule/g" csrc/rule_cuda.cu.in >"$work/$rule.cu"
  echo "FASTUPDATE_ENTRY($rule)" >>"$work/rules.inc"
done
cp csrc/engine_cuda.cu csrc/device_cuda.cu "$work"

compile() {
  nvcc -std=c++17 -O3 -arch="$arch" -fmad=false -DFASTUPDATE_TARGET=cuda -Icsrc -I"$work" -Werror all-warnings \
    -Xptxas -v --keep --keep-dir "$1.keep" -c "$1.cu" -o "$1.o" >"$1.log" 2>&1 ||
    { grep -v '^ptxas info' "$1.log"; return 1; }
}
export -f compile
export arch work
for file in "$work"/*.cu; do mkdir "${file%.cu}.keep"; done
printf '%s\n' "$work"/*.cu | sed 's/\.cu$//' | xargs -P "$(nproc)" -I{} bash -euc 'compile "$1"' _ {}

python3 - "$work" <<'PYTHON'
import pathlib
import re
import sys

work = pathlib.Path(sys.argv[1])
faults = []
for log in sorted(work.glob("*.log")):
    kernel = ""
    for line in log.read_text().splitlines():
        if found := re.search(r"Function properties for (\S+)|Compiling entry function '(\S+)'", line):
            kernel = found[1] or found[2]
        if found := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            if found[1] != "0" or found[2] != "0":
                faults.append(f"{kernel} spills: {line.strip()}")
        if found := re.search(r"Used (\d+) registers", line):
            print(f"{found[1]:>4} registers  {kernel}")

# A plain update reads p, g and its states, and writes p and its states, as vectors: in float32 v4, in float64 pairs of v2.
for ptx in sorted(work.glob("*.keep/*.ptx")):
    for entry in re.split(r"(?=\.visible \.entry )", ptx.read_text())[1:]:
        name = re.match(r"\.visible \.entry (\w+)", entry)[1]
        if "plain_update" not in name:
            continue
        vectors = r"v2\.f64" if "IdLj" in name else r"v4\.f32"
        loads = len(re.findall(rf"ld\.global\.cg\.{vectors}", entry))
        stores = len(re.findall(rf"st\.global\.cg\.{vectors}", entry))
        scale = 2 if vectors.startswith("v2") else 1
        if loads < 2 * scale or stores < scale or loads != stores + scale:
            faults.append(f"{name}: {loads} vector loads, {stores} stores")
        if re.search(r"\bfma\.", entry):
            faults.append(f"{name}: fused multiply-add")
print(*faults, sep="\n")
sys.exit(bool(faults))
PYTHON
echo "no spills, 16-byte accesses, no contraction ($arch)"
