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
