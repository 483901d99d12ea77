#!/usr/bin/env bash
# Builds the native module under the address and undefined-behaviour sanitizers, in build/sanitize, and runs the tests
# on it; generated calls are 10⁴ for each rule.
#
#   scripts/sanitize.sh [pytest arguments]      PYTHON and CXX choose the interpreter and the compiler
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
cxx=${CXX:-g++}
site=$PWD/build/sanitize/site
flags="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g -O1"

mkdir -p build
cmake -S . -B build/sanitize/cmake -DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_COMPILER="$cxx" -DCMAKE_CXX_FLAGS="$flags" \
  -DFASTUPDATE_CUDA=OFF -DPython_EXECUTABLE="$(command -v "$python")" \
  -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" >build/sanitize.log
cmake --build build/sanitize/cmake --parallel "$(nproc)" >>build/sanitize.log

mkdir -p "$site"
rm -rf "$site/fastupdate"
cp -r fastupdate "$site/"
cp build/sanitize/cmake/_core*.so "$site/fastupdate/"
cp scripts/first_on_path.py "$site/sitecustomize.py"

export PYTHONPATH=$site PYTHONSAFEPATH=1 PYTHONMALLOC=malloc PYTHONDONTWRITEBYTECODE=1
export ASAN_OPTIONS=detect_leaks=0,allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1
export FASTUPDATE_TEST_BACKENDS=native FASTUPDATE_TEST_EXAMPLES=${FASTUPDATE_TEST_EXAMPLES:-2500}
export LD_PRELOAD="$("$cxx" -print-file-name=libasan.so) $("$cxx" -print-file-name=libstdc++.so.6)"
"$python" -c 'import fastupdate._core as core; assert "/build/sanitize/" in core.__file__, core.__file__'
"$python" -m pytest -n0 --capture=sys -p no:cacheprovider "${@:-tests}" # the sanitizers' own words are shown
