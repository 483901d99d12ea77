"""Roots and powers that rules may call: the same bits in every language, at every exponent, and how near they are."""

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
# The largest distance from what is right, in ulp, as scalar.py has it; half an ulp is to nearest.
ACCURACY = {"cbrt": {np.float32: 0.5, np.float64: 0.667}, "power": {np.float32: 0.5001, np.float64: 0.7}}
POWERS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5)

by_type = pytest.mark.parametrize("dtype", BITS, ids=["float32", "float64"])

PROBE = """
#include <cstdio>
#include "core/scalar.h"
using namespace fastupdate::host;
int main(int, char** names) {
  REAL x;
  FILE* in = std::fopen(names[1], "rb");
  while (std::fread(&x, sizeof x, 1, in) == 1) {
    x = FUNCTION;
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


def by_numpy(x: np.ndarray, y: float | None = None) -> np.ndarray:
    """The cube root, or a power."""
    with np.errstate(all="ignore"):
        found: np.ndarray = scalar.cbrt(x) if y is None else scalar.power(x, x.dtype.type(y))
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

    power = SUBSTITUTES[scalar.power][np.dtype(dtype)]

    @numba.njit
    def powers(x, y):
        found = np.empty_like(x)
        for i in range(len(x)):
            found[i] = power(x[i], y)
        return found

    x = every_exponent(dtype)
    assert roots(x).tobytes() == by_numpy(x).tobytes()
    for y in POWERS:
        assert powers(abs(x), dtype(y)).tobytes() == by_numpy(abs(x), y).tobytes()


@by_type
@pytest.mark.parametrize("optimised", ["-O0", "-O3"])
@pytest.mark.parametrize("y", [None, *POWERS], ids=lambda y: "cbrt" if y is None else f"{y:g}")
def test_cpp_has_the_bits_of_numpy(dtype, optimised, y, tmp_path):
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        pytest.skip("needs a C++ compiler")
    x = np.concatenate([every_exponent(dtype), three_binades(dtype)])
    x = x if y is None else abs(x)
    function = "cube_root(x)" if y is None else f"real_power(x, REAL({y}))"
    (tmp_path / "probe.cpp").write_text(PROBE)
    x.tofile(tmp_path / "numbers")
    kind = {np.float32: "float", np.float64: "double"}[dtype]
    options = [
        "-std=c++17",
        optimised,
        "-ffp-contract=off",
        f"-DREAL={kind}",
        f"-DFUNCTION={function}",
        f"-I{ROOT / 'csrc'}",
    ]
    subprocess.run([compiler, *options, tmp_path / "probe.cpp", "-o", tmp_path / "probe"], check=True)
    printed = subprocess.run([tmp_path / "probe", tmp_path / "numbers"], capture_output=True, check=True).stdout
    assert printed == by_numpy(x, y).tobytes()


@by_type
def test_accuracy(dtype):
    if np.finfo(np.longdouble).nmant < 63:
        pytest.skip("needs a long double that is wider than a double")
    x = np.concatenate([every_exponent(dtype), three_binades(dtype)])
    x = x[np.isfinite(x)]
    expected = np.cbrt(x.astype(np.longdouble))
    found = by_numpy(x)
    distance = np.abs(found - expected) / np.spacing(np.abs(expected.astype(dtype)))
    assert distance.max() <= ACCURACY["cbrt"][dtype]


@by_type
@pytest.mark.parametrize("y", POWERS)
def test_accuracy_of_powers(dtype, y):
    if np.finfo(np.longdouble).nmant < 63:
        pytest.skip("needs a long double that is wider than a double")
    x = abs(np.concatenate([every_exponent(dtype), three_binades(dtype)]))
    expected = np.power(x.astype(np.longdouble), np.longdouble(dtype(y)))
    info = np.finfo(dtype)
    inside = (expected >= info.smallest_normal) & (expected < info.max)  # a subnormal result is rounded twice
    found, expected = by_numpy(x, y)[inside], expected[inside]
    distance = np.abs(found - expected) / np.spacing(expected.astype(dtype))
    assert distance.max() <= ACCURACY["power"][dtype]


@by_type
def test_ends_of_powers(dtype):
    """Zero, infinity and NaN are their own powers, and 1 if the exponent is 0; beyond the type there are 0 and ∞."""
    x = np.array([0.0, np.inf, np.nan], dtype)
    np.testing.assert_array_equal(by_numpy(x, 0.3), x)
    np.testing.assert_array_equal(by_numpy(x, 0.0), np.ones(3, dtype))
    ends = np.array([np.finfo(dtype).max, np.finfo(dtype).smallest_normal], dtype)
    np.testing.assert_array_equal(by_numpy(ends, 60.0), np.array([np.inf, 0.0], dtype))


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
