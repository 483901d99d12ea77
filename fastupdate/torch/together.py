"""Steps of DTensors that depend on sums over whole tensors: what ranks tell each other goes by torch.distributed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import distributed

from fastupdate.arrays.memory import STORAGE, Array
from fastupdate.sharded import together
from fastupdate.sharded.cells import Values
from fastupdate.sharded.telling import Group
from fastupdate.sharded.together import shifted
from fastupdate.step.stepper import Stepper
from fastupdate.torch.alike import ALIKE, Roll
from fastupdate.torch.borrowed import UNITS, Borrowed
from fastupdate.torch.shards import part_of


class Together(together.Together):
    """The engine of a plan of what is here of parameters.

    opened   whether the others have been told what this rank is about to do
    """

    def __init__(self, stepper: Stepper, params: list[Any], groups: list[Group], roll: Roll, *, opens: bool) -> None:
        """opens: whether its messages are the first of a step."""
        self._params, self._roll, self._opens, self.opened = params, roll, opens, False
        super().__init__(stepper, [tuple(p.shape) for p in params], groups)

    def _gather(self, handle: Any, sent: Values, told: Values) -> None:
        distributed.all_gather([*torch.from_numpy(told)], torch.from_numpy(sent), group=handle)

    def _place(self, k: int) -> None:
        super()._place(k)
        if self._settings.clip_unit_norm is None or len(self._shapes[k]) < 2:  # of a vector all know the one factor
            return
        row, first = self._tensors[k : k + 1], self._here[k].begin // int(self._tensors["unit_length"][k])
        row["unit_scale"] = shifted(int(row["unit_scale"][0]), first * self._plan.unit_scale.itemsize)
        here = slice(*np.searchsorted(self._plan.unit_tensor, (k, k + 1)))
        self._arrays[k][UNITS] = self._plan.unit_scale[here]

    def _borrow(self) -> list[tuple[int, together.Lent]]:
        opening: set[str] = set()
        found: list[tuple[int, Borrowed]] = []
        for grid, group, cells in self._cells():
            here = {k: self._here[k] for k in group.tensors}
            opens = self._opens and group.handle.group_name not in opening
            opening.add(group.handle.group_name)
            found.append((grid, Borrowed(group.handle, cells, here, self._arrays, self._tensors, opens)))
        self._messages = [borrowed for _, borrowed in found]
        return [*found]

    def _begin(self) -> None:
        self.opened = True
        self._open(self._elements, ALIKE)
        for borrowed in self._messages:
            if not borrowed.opens:
                borrowed.gather(self._elements, ALIKE)

    def measure_again(self) -> None:
        """Phases that come after products of matrices, of which what others have of cells has come to be others."""
        again = self._phases[self._stepper.rule.phases_before :]
        for borrowed in self._messages if again else ():
            borrowed.gather(self._elements, ALIKE)
        super().measure_again()

    def part(self, standing: float) -> None:
        """Tells that this rank is not to take the step that the others may be taking; ValueError unless none is."""
        self.opened = True
        self._open(lambda k, elements: np.zeros_like(self._arrays[k]["g"][elements]), standing)

    def _open(self, gradient: Callable[[int, slice], Array], standing: float) -> None:
        opening = [borrowed for borrowed in self._messages if borrowed.opens]
        for borrowed in opening:
            borrowed.gather(gradient, standing)
        for borrowed in opening:
            self._roll.check(borrowed.told.tolist())

    # -- gradients ----------------------------------------------------------------------------------------------------

    def _point_to_gradients(self) -> None:
        self._flats: dict[int, Any] = {}
        super()._point_to_gradients()

    def _gradient(self, k: int) -> tuple[int, int, int]:
        flat = self._flats[k] = part_of(self._params[k].grad).detach().contiguous().view(-1)
        return flat.data_ptr(), flat.element_size(), STORAGE[str(flat.dtype).removeprefix("torch.")].code

    def _elements(self, k: int, elements: slice) -> Array:
        dtype = getattr(torch, self._plan.items[k].array.dtype.name)
        return np.asarray(self._flats[k][elements].to(dtype).numpy())

    def _zero(self) -> None:
        for k in self._shared:
            part_of(self._params[k].grad).zero_()
