"""Every rule of fastupdate.torch in all its cases, by itself and beside what options keep.

It has the bits that it has on arrays, and goes on with them when it has been saved or copied.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from cases import EVERY_CASE, EVERY_PHASED_CASE, Case, assert_same_bits, random_arrays
from peers import file_needs, peer
from torch_cases import arrays_of, hand_over, ours, torch

import fastupdate as fu
from fastupdate.stages import ARRAYS

pytestmark = pytest.mark.peer
file_needs("torch")

SHAPES = [(4, 6), (6, 4), (5, 5)]  # which every rule takes
KEPT = {"optimism": 0.3, "ema_decay": 0.9, "lookahead": (2, 0.5), "shadow": "bfloat16"}
OPTIONS: dict[str, dict[str, Any]] = {"plain": {}, "kept": KEPT}


@pytest.fixture(autouse=True)
def _torch_there() -> None:
    peer("torch")


def matrices(seed: int) -> list[Any]:
    arrays = random_arrays(seed, [24, 24, 25], "float32", spread=1.0)
    return [torch.from_numpy(a.reshape(shape)) for a, shape in zip(arrays, SHAPES, strict=True)]


def made(case: Case, params: list[Any], options: str) -> Any:
    """Muon's default of `nesterov` is torch's."""
    own = {"nesterov": False} if case.rule == "muon" else {}
    return ours(Case(case.rule, case.name, own | case.kwargs), params, **OPTIONS[options])


def steps(optimizer: Any, params: list[Any], *seeds: int) -> None:
    for seed in seeds:
        hand_over(params, matrices(seed))
        optimizer.step()


def loaded(case: Case, options: str, optimizer: Any, params: list[Any]) -> tuple[Any, list[Any]]:
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    another = made(case, others, options)
    another.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return another, others


WAYS: dict[str, Callable[[Case, str, Any, list[Any]], tuple[Any, list[Any]]]] = {
    "loaded": loaded,
    "deepcopy": lambda case, options, *run: copy.deepcopy(run),
    "pickle": lambda case, options, *run: pickle.loads(pickle.dumps(run)),
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("case", EVERY_CASE + EVERY_PHASED_CASE, ids=str)
def test_bits_are_those_of_arrays_and_of_a_run_unbroken(case: Case, options: str) -> None:
    params, arrays = [torch.nn.Parameter(p) for p in matrices(1)], arrays_of(matrices(1))
    optimizer, reference = made(case, params, options), case.make(arrays, **OPTIONS[options])
    steps(optimizer, params, 2, 3, 4)
    twins = {way: make(case, options, optimizer, params) for way, make in WAYS.items()}
    steps(optimizer, params, 5, 6)
    for seed in range(2, 7):
        reference.step(arrays_of(matrices(seed)))
    assert_same_bits(arrays_of(params), arrays, "on arrays")
    for way, (twin, others) in twins.items():
        steps(twin, others, 5, 6)
        assert_same_bits(arrays_of(others), arrays, way)


def test_no_rule_keeps_a_state_under_the_name_of_what_an_option_keeps() -> None:
    taken = {"step", "shadow", *(name for name, stage in ARRAYS.items() if stage.state.lasts)}
    for name, rule in fu.rules.every().items():
        clash = taken & set(fu.torch.names.state_names(rule).values())
        assert not clash, f"{name} needs a row in fastupdate/torch/names.py for {clash}"
