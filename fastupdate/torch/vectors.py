"""Norms of vectors of which ranks have parts: each vector is one unit of what `clip_unit_norm` clips.

Of tensors of more axes the units are slices along the first one, along which ranks cut, so that each has its own whole.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastupdate.arrays.memory import Array
from fastupdate.sharded.telling import Group
from fastupdate.step.decide import LARGE
from fastupdate.step.plan import Plan
from fastupdate.step.stepper import Stepper
from fastupdate.torch.alike import Roll
from fastupdate.torch.mesh import MeshSums
from fastupdate.torch.shards import is_split


def is_cut_vector(p: Any) -> bool:
    """Whether this is one."""
    return p.dim() < 2 and is_split(p)


class VectorNorms:
    """Those of gradients and weights of some parameters.

    sums   what ranks tell each other
    """

    def __init__(self, stepper: Stepper, params: list[Any], groups: list[Group], roll: Roll) -> None:
        self._params = params
        self._which = [k for k, p in enumerate(params) if is_cut_vector(p)]
        self.sums = MeshSums(stepper, params, groups, roll, self._which)

    def fill(self, plan: Plan, unit: float) -> None:
        """Writes the norms of whole vectors, in units of `unit`, where those of parts are."""
        if unit == 1.0:  # all ranks see alike whether there is one that float64 does not hold
            self._norms = self._read(1.0)
            self._in_large = self._read(LARGE) if np.isinf(self._norms).any() else self._norms
        places = np.searchsorted(plan.unit_tensor, self._which)
        plan.unit_norms[places] = self._norms if unit == 1.0 else self._in_large

    def _read(self, unit: float) -> Array:
        of_both = [self.sums.totals(unit), self.sums.of([p.detach() for p in self._params], unit)]
        norms: Array = np.sqrt(np.stack([totals["gg"][self._which] for totals in of_both], axis=-1))
        return norms
