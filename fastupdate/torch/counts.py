"""Step counts: the `step` tensors of an optimizer's state are views of one array, so that all are counted at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastupdate.torch.names import STEP
from fastupdate.torch.states import States


class Counts:
    """The step counts of all parameters that have a state.

    array   of floats, as torch counts; the tensors `state[p]["step"]` are its elements
    """

    def __init__(self, states: States) -> None:
        entries = [entry for entry in states.values() if isinstance(entry, dict) and STEP in entry]
        dtype = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
        self._tensor = torch.tensor([float(entry[STEP]) for entry in entries], dtype=dtype)
        self.array: NDArray[Any] = self._tensor.numpy()
        for entry, view in zip(entries, self._tensor.unbind(), strict=True):
            entry[STEP] = view

    def places(self, states: States, params: list[Any]) -> NDArray[np.int64] | None:
        """Where the counts of these parameters are; None if one of them is elsewhere."""
        places = [self._place(states[p].get(STEP)) for p in params]
        return None if None in places else np.array(places, np.int64)

    def _place(self, step: Any) -> int | None:
        if not isinstance(step, torch.Tensor) or step.dim() or step.dtype != self._tensor.dtype:
            return None
        k = (step.data_ptr() - self._tensor.data_ptr()) // step.element_size()
        return k if 0 <= k < len(self.array) else None


def slice_of(places: NDArray[np.int64]) -> Any:
    """The places as a slice, if they follow upon each other."""
    first = int(places[0])
    return slice(first, first + len(places)) if (np.diff(places) == 1).all() else places
