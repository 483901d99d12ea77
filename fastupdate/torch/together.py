"""Steps of DTensors that depend on sums over whole tensors: what ranks tell each other goes by torch.distributed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from fastupdate.arrays.memory import STORAGE, Array
from fastupdate.sharded import together
from fastupdate.sharded.boxes import Numbers
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
        handle.gather(sent, told)

    def _place(self, k: int) -> list[Numbers]:
        numbers = super()._place(k)
        if self._settings.clip_unit_norm is None or len(self._shapes[k]) < 2:  # of a vector all know the one factor
            return numbers
        row, first = self._tensors[k : k + 1], self._here[k].begin // int(self._tensors["unit_length"][k])
        row["unit_scale"] = shifted(int(row["unit_scale"][0]), first * self._plan.unit_scale.itemsize)
        here = slice(*np.searchsorted(self._plan.unit_tensor, (k, k + 1)))
        self._arrays[k][UNITS] = self._plan.unit_scale[here]
        return numbers

    def _borrow(self) -> list[together.Lent]:
        self._messages = [
            Borrowed(group.handle, [*self._cells(group)], self._arrays, self._tensors, self._opens)
            for group in self._groups
        ]
        return [*self._messages]

    def _begin(self) -> None:
        self.opened = True
        self._tell(self._elements, ALIKE)

    def measure_again(self) -> None:
        """Phases that come after products of matrices, of which what others have of cells has come to be others."""
        again = self._phases[self._stepper.rule.phases_before :]
        for borrowed in self._messages if again else ():
            borrowed.gather(self._elements, ALIKE)
        super().measure_again()

    def part(self, standing: float) -> None:
        """Tells that this rank is not to take the step that the others may be taking; ValueError unless none is."""
        self.opened = True
        self._tell(lambda k, elements: np.zeros_like(self._arrays[k]["g"][elements]), standing)

    def _tell(self, gradient: Callable[[int, Any], Array], standing: float) -> None:
        for borrowed in self._messages:
            borrowed.gather(gradient, standing)
        for borrowed in self._messages if self._opens else ():
            self._roll.check(borrowed.told.tolist())

    # -- gradients ----------------------------------------------------------------------------------------------------

    def _point_to_gradients(self) -> None:
        self._here_of: dict[int, Any] = {}  # of gradients, by tensor
        super()._point_to_gradients()

    def _gradient(self, k: int) -> tuple[int, int, int]:
        grad = part_of(self._params[k].grad).detach().contiguous()
        self._here_of[k] = grad if k in self._in_boxes else grad.view(-1)
        return grad.data_ptr(), grad.element_size(), STORAGE[str(grad.dtype).removeprefix("torch.")].code

    def _elements(self, k: int, elements: Any) -> Array:
        dtype = getattr(torch, self._plan.items[k].array.dtype.name)
        return np.asarray(self._here_of[k][elements].to(dtype).numpy())

    def _zero(self) -> None:
        for k in self._shared:
            part_of(self._params[k].grad).zero_()
