"""The functions that rules may call, on numbers and on NumPy arrays; csrc/core/scalar.h has the same, bit for bit."""

from __future__ import annotations

import math
from math import exp as exp
from typing import Any

import numpy as np
from numpy import absolute as absolute
from numpy import maximum as maximum
from numpy import sqrt as sqrt
from numpy import where as where


def positive_part(x: Any) -> Any:
    """max(x, 0) of a finite x; NaN otherwise."""
    return np.maximum(x, x - x)


def log(x: Any) -> Any:
    """ln x of a number ≥ 0, which may be 0. It and exp have their place in `prepare` alone."""
    return math.log(x) if x > 0.0 else -math.inf


def cbrt(x: Any) -> Any:
    """The cube root in the type of x: within 0.67 ulp in float64, and to nearest in float32."""
    return cube_root(x.astype(np.float64)).astype(x.dtype)


def cube_root(x: Any) -> Any:
    """∛x of a float64: a third of its logarithm, two of Halley's steps, and one more from a root of 24 bits.

    Processors round cbrt each in its own way, so here it is of operations that all round alike.
    """
    a = absolute(x)
    small, large = a < 2.0**-960, a > 2.0**960
    a = where(small, a * 2.0**120, where(large, a * 2.0**-120, a))
    # The upper half of the bits, as a number, is nearly a logarithm; 2⁵² turns whole numbers into bits and back.
    high = np.int64(np.float64(a).view(np.int64) >> 32 | 0x4330000000000000).view(np.float64) - 2.0**52
    third = high * 0.3333333333333333 + 715094163.0 + 2.0**52
    t = np.int64(np.float64(third).view(np.int64) << 32).view(np.float64)  # within 1/16
    cube = t * t * t
    t = t * ((cube + (a + a)) / (cube + cube + a))
    cube = t * t * t
    t = t * ((cube + (a + a)) / (cube + cube + a))
    upper = t * 536870913.0  # 2²⁹ + 1
    t = upper - (upper - t)  # 24 bits, whose square is exact
    rest = a / (t * t)
    t = t + t * ((rest - t) / (t + t + rest))
    t = where(small, t * 2.0**-40, where(large, t * 2.0**40, t))
    t = where(x < 0.0, -t, t)
    return where((a > 0.0) & (a - a == 0.0), t, x + x)  # zeros, infinities and NaN are their own roots


def sign(x: Any) -> Any:
    """−1, 0 or 1; NaN gives 0."""
    return np.nan_to_num(np.sign(x))


def warming_product(beta: float, rate: float, t: float) -> float:
    """Π β·(1 − ½·rateⁱ) for i = 1 … t, as far as it makes a difference to 1; for `prepare` alone."""
    product = power = 1.0
    i = 0.0
    while i < t and product > 1e-20:
        power = power * rate
        product = product * (beta * (1.0 - 0.5 * power))
        i = i + 1.0
    return product
