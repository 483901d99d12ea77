"""Scalar operations that mirrors of rules may use beside NumPy's; csrc/core/scalar.h has the same."""

from __future__ import annotations

from typing import Any

import numpy as np


def positive_part(x: Any) -> Any:
    """max(x, 0) of a finite x; NaN otherwise. The zero is x − x, for a literal would widen float32 under Numba."""
    return np.maximum(x, x - x)
