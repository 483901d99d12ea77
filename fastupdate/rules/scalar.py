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


def power(x: Any, y: Any) -> Any:
    """xʸ in the type of x, of numbers x ≥ 0 and y ≥ 0: within 0.7 ulp in float64, and nearly to nearest in float32."""
    return wide_power(x.astype(np.float64), np.float64(y)).astype(x.dtype)


def wide_power(x: Any, y: Any) -> Any:
    """xʸ of float64: 2 to the y·log₂x, which is held in two numbers, as products of 26 bits are exact.

    The logarithm is by the series of artanh (m − 1)/(m + 1), x being 2ᵏm; processors round pow each in its own way.
    """
    small = x < 2.0**-960
    bits = np.float64(where(small, x * 2.0**120, x)).view(np.int64)
    biased = np.int64(bits + 0x95F619980C433) >> 52  # k and 1023, so that √½ ≤ m < √2
    m = np.int64(bits - (biased << 52) + 0x3FF0000000000000).view(np.float64)
    k = np.int64(biased | 0x4330000000000000).view(np.float64) - 4503599627371519.0 - where(small, 120.0, 0.0)
    s = (m - 1.0) / (m + 1.0)
    s_high, below = upper(s), upper(m + 1.0)
    s_low = (m - 1.0 - s_high * below - s_high * (m - (below - 1.0))) / (m + 1.0)
    square, exact = s * s, s_high * s_high
    tail = square * square * log_series(square) + s_low * (s_high + s)
    high = upper(3.0 + exact + tail)
    low = s_low * high + (tail - (high - 3.0 - exact)) * s
    high = s_high * high
    log_high = upper(high + low)
    log_low = 7.872699542894897e-09 * log_high + (low - (log_high - high)) * 0.9617966939259756  # 2/(3·ln 2)
    log_high = 0.9617966860532761 * log_high
    high = upper(log_high + log_low + k)
    low = log_low - (high - k - log_high)
    y_high = upper(y)
    low = (y - y_high) * high + y * low
    high = y_high * high
    z = high + low
    whole = z + 6755399441055744.0 - 6755399441055744.0  # 1.5·2⁵², which rounds
    high = high - whole
    rest = upper(high + low)
    low = (low - (rest - high)) * 0.6931471805599453 + rest * 1.2996506893889889e-08
    high = rest * 0.6931471675634384  # ln 2
    r = high + low
    found = 1.0 + r
    found = found + (1.0 - found + r + (low - (r - high) + r * r * exp_series(r)))
    half = whole * 0.5 + 6755399441055744.0 - 6755399441055744.0
    found = found * power_of_two(half) * power_of_two(whole - half)
    found = where(z > 1030.0, math.inf, where(z < -1100.0, 0.0, found))
    return where((x > 0.0) & (x < math.inf), found, where(y > 0.0, x, 1.0))


def upper(x: Any) -> Any:
    """The first 26 bits of a float64."""
    return np.int64(np.float64(x).view(np.int64) & -134217728).view(np.float64)


def power_of_two(k: Any) -> Any:
    """2ᵏ of a whole number −1023 < k < 1024."""
    return np.int64(np.int64(np.float64(k + 6755399441055744.0).view(np.int64) + 1023) << 52).view(np.float64)


def log_series(x: Any) -> Any:
    """3/5 + 3/7·x + 3/9·x² + …"""
    a = 0.14285714285714285 + x * (0.13043478260869565 + x * 0.12)
    a = 0.2 + x * (0.17647058823529413 + x * (0.15789473684210525 + x * a))
    a = 0.3333333333333333 + x * (0.2727272727272727 + x * (0.23076923076923078 + x * a))
    return 0.6 + x * (0.42857142857142855 + x * a)


def exp_series(x: Any) -> Any:
    """1/2! + 1/3!·x + 1/4!·x² + …"""
    a = 1.6059043836821613e-10 + x * (1.1470745597729725e-11 + x * 7.647163731819816e-13)
    a = 2.755731922398589e-07 + x * (2.505210838544172e-08 + x * (2.08767569878681e-09 + x * a))
    a = 0.0001984126984126984 + x * (2.48015873015873e-05 + x * (2.7557319223985893e-06 + x * a))
    a = 0.041666666666666664 + x * (0.008333333333333333 + x * (0.001388888888888889 + x * a))
    return 0.5 + x * (0.16666666666666666 + x * a)


def sign(x: Any) -> Any:
    """−1, 0 or 1; NaN gives 0."""
    return np.nan_to_num(np.sign(x))


def rectification(beta2: float, power: float, t: float, threshold: float) -> float:
    """r² of RAdam in step t, power being β₂ᵗ; 0 while ρ is at most the threshold, or 4. For `prepare` alone."""
    longest = 2.0 / (1.0 - beta2) - 1.0
    length = longest - 2.0 * t * power / (1.0 - power)
    if length <= max(threshold, 4.0):
        return 0.0
    return (length - 4.0) * (length - 2.0) * longest / ((longest - 4.0) * (longest - 2.0) * length)


def warming_product(beta: float, rate: float, t: float) -> float:
    """Π β·(1 − ½·rateⁱ) for i = 1 … t, as far as it makes a difference to 1; for `prepare` alone."""
    product = power = 1.0
    i = 0.0
    while i < t and product > 1e-20:
        power = power * rate
        product = product * (beta * (1.0 - 0.5 * power))
        i = i + 1.0
    return product
