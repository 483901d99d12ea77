#!/usr/bin/env bash
# The GPU tests under compute-sanitizer: memcheck (accesses out of bounds or misaligned) and racecheck (shared memory).
# Needs a CUDA device, CuPy or torch, and the CUDA toolkit. usage: cuda_check.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
[ -x "$sanitizer" ] || { echo "compute-sanitizer is not there: it comes with the CUDA toolkit"; exit 1; }
python -c 'import sys; from fastupdate.engines import choose; sys.exit(choose.cuda_problem())'
for tool in memcheck racecheck; do
  echo "== $tool"
  "$sanitizer" --tool "$tool" --error-exitcode 1 --target-processes all \
    python -m pytest -n0 -q -m gpu tests/gpu -k "not 32_bits and not fork and not wait" "$@"
done
