"""Norms of what `clip_unit_norm` clips where ranks have parts of it.

A vector is one unit; of tensors of more axes the units are slices along the first one. A rank has those whole where the
tensor is cut along that axis, but not where it is in boxes.
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
from fastupdate.torch.wholes import SliceNorms


def has_cut_units(p: Any) -> bool:
    """Whether ranks have parts of this parameter's units."""
    return is_split(p) and (p.dim() < 2 or any(getattr(each, "dim", 0) for each in p.placements))


class UnitNorms:
    """Those of gradients and weights of some parameters.

    sums   what ranks tell each other
    """

    def __init__(self, stepper: Stepper, params: list[Any], groups: list[Group], roll: Roll) -> None:
        self._params = params
        self._which = [k for k, p in enumerate(params) if p.dim() < 2 and is_split(p)]
        self.sums = MeshSums(stepper, params, groups, roll, self._which)
        self._slices = [SliceNorms(stepper, params, group) for group in groups if group.boxes]
        self._local = {k: which for slices in self._slices for k, which in slices.here.items()}

    def fill(self, plan: Plan, unit: float) -> None:
        """Writes the norms of whole units, in units of `unit`, where those of parts are."""
        if unit == 1.0:  # all ranks see alike whether there is one that float64 does not hold
            self._norms = self._read(1.0)
            large = any(np.isinf(norms).any() for norms in self._norms)
            self._in_large = self._read(LARGE) if large else self._norms
        of_vectors, *of_slices = self._norms if unit == 1.0 else self._in_large
        plan.unit_norms[np.searchsorted(plan.unit_tensor, self._which)] = of_vectors
        for (k, which), norms in zip(self._local.items(), of_slices, strict=True):
            first = np.searchsorted(plan.unit_tensor, k)
            plan.unit_norms[first : first + which.stop - which.start] = norms[which]

    def _read(self, unit: float) -> list[Array]:
        """[unit][gradient, weight] of all vectors, and of each tensor in boxes."""
        weights = [p.detach() for p in self._params]
        of_both = [self.sums.totals(unit), self.sums.of(weights, unit)]
        norms: list[Array] = [np.sqrt(np.stack([totals["gg"][self._which] for totals in of_both], axis=-1))]
        for slices in self._slices:
            both = slices.of([p.grad for p in self._params], unit), slices.of(weights, unit)
            norms += [np.stack([each[k] for each in both], axis=-1) for k in slices.here]
        return norms
