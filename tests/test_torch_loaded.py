"""Every rule of fastupdate.torch in all its cases goes on with the same bits when it has been saved or copied."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from cases import EVERY_CASE, EVERY_PHASED_CASE, Case, assert_same_bits, random_arrays
from peers import file_needs, peer
from torch_cases import arrays_of, hand_over, ours, torch

pytestmark = pytest.mark.peer
file_needs("torch")

SHAPES = [(4, 6), (6, 4), (5, 5)]  # which every rule takes


@pytest.fixture(autouse=True)
def _torch_there() -> None:
    peer("torch")


def matrices(seed: int) -> list[Any]:
    arrays = random_arrays(seed, [24, 24, 25], "float32", spread=1.0)
    return [torch.from_numpy(a.reshape(shape)) for a, shape in zip(arrays, SHAPES, strict=True)]


def steps(optimizer: Any, params: list[Any], *seeds: int) -> None:
    for seed in seeds:
        hand_over(params, matrices(seed))
        optimizer.step()


def loaded(case: Case, optimizer: Any, params: list[Any]) -> tuple[Any, list[Any]]:
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    another = ours(case, others)
    another.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return another, others


WAYS: dict[str, Callable[[Case, Any, list[Any]], tuple[Any, list[Any]]]] = {
    "loaded": loaded,
    "deepcopy": lambda case, *run: copy.deepcopy(run),
    "pickle": lambda case, *run: pickle.loads(pickle.dumps(run)),
}


@pytest.mark.parametrize("case", EVERY_CASE + EVERY_PHASED_CASE, ids=str)
def test_a_run_goes_on_with_the_same_bits(case: Case) -> None:
    params = [torch.nn.Parameter(p) for p in matrices(1)]
    optimizer = ours(case, params)
    steps(optimizer, params, 2, 3, 4)
    twins = {way: make(case, optimizer, params) for way, make in WAYS.items()}
    steps(optimizer, params, 5, 6)
    for way, (twin, others) in twins.items():
        steps(twin, others, 5, 6)
        assert_same_bits(arrays_of(others), arrays_of(params), way)
