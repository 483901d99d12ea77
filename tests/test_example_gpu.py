"""The GPU example where there is no GPU: it learns, and no order of summation changes a bit of what it learns."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from peers import peer

EXAMPLES = Path(__file__).parents[1] / "examples"


class Backwards(np.ndarray):
    """A device of its own: arrays that are fetched by `get`, and sums that run the other way."""

    def __matmul__(self, other: Any) -> Any:
        a, b = np.asarray(self), np.asarray(other)
        return sum(np.multiply.outer(a[:, k], b[k]) for k in reversed(range(len(b)))).view(Backwards)

    def get(self) -> np.ndarray:
        return np.asarray(self)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    peer("sklearn")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("gpu")


def output(example: ModuleType, xp: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> list[str]:
    monkeypatch.setattr(example, "array_module", lambda: xp)
    monkeypatch.setattr(example, "STEPS", 30)
    example.main()
    return capsys.readouterr().out.splitlines()


def test_other_orders_of_summation_leave_the_same_bits(example, monkeypatch, capsys):
    backwards = {"asarray": lambda a: np.asarray(a).view(Backwards), "zeros": lambda *a: np.zeros(*a).view(Backwards)}
    other = SimpleNamespace(**{**vars(np), **backwards})
    expected, found = (output(example, xp, monkeypatch, capsys) for xp in (np, other))
    assert found == expected
    assert expected[0].startswith("step  30  loss ")
    assert float(expected[1].partition(": ")[2].rstrip("%")) > 85
    assert expected[2].startswith("sha256 of the weights")


def test_is_short() -> None:
    assert len((EXAMPLES / "gpu.py").read_text(encoding="utf-8").splitlines()) <= 80
