"""What the benchmarks are parametrised by, and the arrays that they step."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastupdate as fu
from fastupdate.engines import choose

if choose.native_problem() and not os.environ.get("FASTUPDATE_BACKEND"):
    raise ImportError(f"Numba would be measured, which FASTUPDATE_BACKEND=numba asks for: {choose.native_problem()}")

RULES = fu.rules.names()
SIZES = [64, 65_536, 4_194_304]  # elements: call overhead, cache, memory
DTYPES = ["float32", "float64"]
COUNTS = [100, 1000, 10_000]  # tensors

Arrays = list[NDArray[Any]]


def shape_for(rule: str, size: int) -> tuple[int, ...]:
    """A matrix where the rule is of matrices, NotImplementedError, which skips it, where that takes seconds."""
    if not fu.rules.get(rule).rule.matrix:
        return (size,)
    if size > SIZES[1]:
        raise NotImplementedError("products of large matrices are the array library's")
    return (math.isqrt(size),) * 2


def arrays(count: int, shape: int | tuple[int, ...], dtype: str) -> tuple[Arrays, Arrays]:
    """Parameters and gradients, none of them zero, in pages that have been touched."""
    rng = np.random.default_rng(0)
    return tuple(  # type: ignore[return-value]
        [(rng.standard_normal(shape) + 10).astype(dtype) for _ in range(count)] for _ in ("params", "grads")
    )


def optimizer(rule: str, params: Arrays) -> Any:
    """The rule with its defaults; a rate too small to move far."""
    cls: Any = fu.rules.get(rule)
    return cls(params, lr=1e-6)
