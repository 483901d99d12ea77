"""What a step reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastupdate.plan import Records

# Of each tensor, in one step (g: gradient of the loss, before clipping; w: weights afterwards; Δ: their change):
#   grad_norm, weight_norm, update_norm   ‖g‖, ‖w‖, ‖Δ‖
#   update_ratio                          ‖Δ‖ / ‖w‖
#   largest_update                        max |Δᵢ|
#   nonfinite                             how many gᵢ are NaN or infinite
#   zero_fraction                         share of gᵢ that are 0
#   stalled                               how many wᵢ the rule's update uᵢ ≠ 0 is lost on: wᵢ + uᵢ rounds to wᵢ
#   momentum_cosine                       g·m / (‖g‖·‖m‖), m the momentum before the step (NaN: there is none, or zero)
STATISTICS = np.dtype(
    [
        ("name", "O"), ("n", "i8"), ("grad_norm", "f8"), ("weight_norm", "f8"), ("update_norm", "f8"),
        ("update_ratio", "f8"), ("largest_update", "f8"), ("nonfinite", "i8"), ("zero_fraction", "f8"),
        ("stalled", "i8"), ("momentum_cosine", "f8"),
    ]
)  # fmt: skip


class Report:
    """One step's outcome.

    step         steps taken so far, this one included
    lr           learning rate of the first group in this step
    grad_norm    ‖s·g‖ over all tensors before clipping (s = 1 / (loss_scale · micro-batches)); None if not asked for
    clip_factor  what `clip_norm` multiplied the gradients by; 1.0 if it left them alone
    nonfinite    number of NaN and infinite gradients; None if not asked for
    skipped      True if the policy `nonfinite="skip"` left everything as it was
    tensors      with `monitor=True`, a structured array with a row per tensor (see STATISTICS), else None
    """

    __slots__ = ("_tensors", "clip_factor", "grad_norm", "lr", "nonfinite", "skipped", "step")

    def __init__(
        self,
        step: int,
        lr: float,
        grad_norm: float | None = None,
        clip_factor: float = 1.0,
        nonfinite: int | None = None,
        skipped: bool = False,
        tensors: Callable[[], NDArray[np.void]] | None = None,
    ) -> None:
        self.step = step
        self.lr = lr
        self.grad_norm = grad_norm
        self.clip_factor = clip_factor
        self.nonfinite = nonfinite
        self.skipped = skipped
        self._tensors: Any = tensors

    @property
    def tensors(self) -> NDArray[np.void] | None:
        """Worked out from the sums of the step when it is first looked at."""
        if callable(self._tensors):
            self._tensors = self._tensors()
        table: NDArray[np.void] | None = self._tensors
        return table

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__[1:])
        return f"Report({shown})"


def tensor_statistics(
    names: NDArray[np.object_],
    sizes: NDArray[np.int64],
    totals: Records,
    scales: NDArray[np.float64],
    sign: float,
) -> NDArray[np.void]:
    """The monitored figures of each tensor, from its sums.

    scales  (tensors,) what turns raw gradients into those of the loss, before any clipping
    sign    −1 where a momentum in favour of the gradient points against the raw one
    """
    table = np.zeros(len(names), STATISTICS)
    table["name"] = names
    table["n"] = sizes
    grad = np.sqrt(totals["gg"])
    table["grad_norm"] = grad * scales
    table["weight_norm"] = np.sqrt(totals["pp"])
    table["update_norm"] = np.sqrt(totals["uu"])
    table["largest_update"] = totals["largest"]
    table["nonfinite"] = totals["nonfinite"]
    table["stalled"] = totals["stalled"]
    with np.errstate(divide="ignore", invalid="ignore"):
        table["update_ratio"] = table["update_norm"] / table["weight_norm"]
        table["zero_fraction"] = totals["zeros"] / sizes
        table["momentum_cosine"] = sign * totals["gm"] / (grad * np.sqrt(totals["mm"]))
    return table
