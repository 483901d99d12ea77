"""The cube root that rules may call: the same bits in every language, at every exponent, and how near it is."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastupdate.rules import scalar

ROOT = Path(__file__).resolve().parents[1]
BITS: dict[Any, Any] = {np.float32: np.int32, np.float64: np.int64}
# The largest distance from the cube root, in ulp, as scalar.py has it; half an ulp is to nearest.
ACCURACY = {np.float32: 0.5, np.float64: 0.667}

by_type = pytest.mark.parametrize("dtype", BITS, ids=["float32", "float64"])

PROBE = """
#include <cstdio>
#include "core/scalar.h"
using namespace fastupdate::host;
int main(int, char** names) {
  REAL x;
  FILE* in = std::fopen(names[1], "rb");
  while (std::fread(&x, sizeof x, 1, in) == 1) {
    x = cube_root(x);
    std::fwrite(&x, sizeof x, 1, stdout);
  }
}
"""


def every_exponent(dtype: Any, each: int = 40) -> np.ndarray:
    """Numbers of both signs at every exponent, subnormal ones among them, with zeros, ends of binades, infinities."""
    info = np.finfo(dtype)
    rng = np.random.default_rng(7)
    last = 2**info.nmant - 1
    mantissas = np.concatenate([[0, 1, last - 1, last], rng.integers(0, last, each)])
    exponents = np.arange(2 ** (info.bits - 1 - info.nmant) - 1)
    bits = (exponents[:, None] << info.nmant | mantissas).reshape(-1).astype(BITS[dtype])
    x = np.concatenate([bits.view(dtype), np.array([np.inf], dtype)])
    return np.concatenate([x, -x])


def three_binades(dtype: Any) -> np.ndarray:
    """A factor of 8 changes nothing but the exponent."""
    return np.linspace(1, 8, 1_000_003).astype(dtype)


def by_numpy(x: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        found: np.ndarray = scalar.cbrt(x)
    return found


@by_type
def test_numba_has_the_bits_of_numpy(dtype):
    numba = pytest.importorskip("numba", reason="needs Numba")
    from fastupdate.engines.python.formula import SUBSTITUTES

    root = SUBSTITUTES[scalar.cbrt][np.dtype(dtype)]

    @numba.njit
    def roots(x):
        found = np.empty_like(x)
        for i in range(len(x)):
            found[i] = root(x[i])
        return found

    x = every_exponent(dtype)
    assert roots(x).tobytes() == by_numpy(x).tobytes()


@by_type
@pytest.mark.parametrize("optimised", ["-O0", "-O3"])
def test_cpp_has_the_bits_of_numpy(dtype, optimised, tmp_path):
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        pytest.skip("needs a C++ compiler")
    x = np.concatenate([every_exponent(dtype), three_binades(dtype)])
    (tmp_path / "probe.cpp").write_text(PROBE)
    x.tofile(tmp_path / "numbers")
    kind = {np.float32: "float", np.float64: "double"}[dtype]
    options = ["-std=c++17", optimised, "-ffp-contract=off", f"-DREAL={kind}", f"-I{ROOT / 'csrc'}"]
    subprocess.run([compiler, *options, tmp_path / "probe.cpp", "-o", tmp_path / "probe"], check=True)
    printed = subprocess.run([tmp_path / "probe", tmp_path / "numbers"], capture_output=True, check=True).stdout
    assert printed == by_numpy(x).tobytes()


@by_type
def test_accuracy(dtype):
    if np.finfo(np.longdouble).nmant < 63:
        pytest.skip("needs a long double that is wider than a double")
    x = np.concatenate([every_exponent(dtype), three_binades(dtype)])
    x = x[np.isfinite(x)]
    expected = np.cbrt(x.astype(np.longdouble))
    found = by_numpy(x)
    distance = np.abs(found - expected) / np.spacing(np.abs(expected.astype(dtype)))
    assert distance.max() <= ACCURACY[dtype]


@by_type
def test_numbers_without_a_cube_root(dtype):
    """Zeros, infinities and NaN are their own, with their sign."""
    x = np.array([0.0, -0.0, np.inf, -np.inf], dtype)
    assert by_numpy(x).tobytes() == x.tobytes()
    assert np.isnan(by_numpy(np.array([np.nan], dtype))).all()


@by_type
def test_cubes_have_exact_roots(dtype):
    whole = np.arange(-200, 201).astype(dtype)
    assert np.array_equal(by_numpy(whole**3), whole)
