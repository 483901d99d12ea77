"""What each rule is compared with: a file for each, of its name, holds rows of arguments with a peer that must agree.

    ROWS = {
        "plain": Golden({"lr": 0.01, "weight_decay": 0.03}, Torch("torch.optim", "Adamax", lr=0.01, weight_decay=0.03)),
    }

The rows are also the cases (tests/cases.py) that every engine runs the rule under, so they switch each flag on and off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from tolerances import PEER

Arrays = list[np.ndarray]


class Peer(Protocol):
    """Another library's optimizer."""

    def start(self, params: Arrays) -> None:
        """Makes it, over copies of the weights; skips the test if the library is not there."""

    def step(self, grads: Arrays) -> Arrays:
        """The weights after a step."""


class Golden(NamedTuple):
    """Arguments of a rule, and the peer's optimizer that must go the same way.

    shapes   of the weights; a rule of rows or matrices needs matrices
    dtypes   that the peer computes in
    ulp      how far it may be, in units in the last place (tests/tolerances.py); more than PEER needs its reason here
    """

    arguments: Mapping[str, Any]
    peer: Peer
    shapes: Sequence[Any] = (0, 1, 7, 16, 33, 1025)
    dtypes: Sequence[str] = ("float32", "float64")
    ulp: float = PEER


def rows(rule: str) -> dict[str, Golden]:
    """The rows of a rule by name; none if it has no file."""
    if not (Path(__file__).parent / f"{rule}.py").exists():
        return {}
    found: dict[str, Golden] = import_module(f"golden.{rule}").ROWS
    return found
