"""The functions that rules may call, on numbers and on NumPy arrays; csrc/core/scalar.h has the same, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import absolute as absolute
from numpy import maximum as maximum
from numpy import sqrt as sqrt
from numpy import where as where


def positive_part(x: Any) -> Any:
    """max(x, 0) of a finite x; NaN otherwise."""
    return np.maximum(x, x - x)


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
