"""Parameters as torch takes them: iterators, pairs with names, groups with hyperparameters of their own."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from cases import by_backend, exactly
from peers import peer

import fastupdate as fu


def three() -> list[np.ndarray]:
    return [np.full(2, 1.0), np.full(3, 2.0), np.full(1, 3.0)]


GRADS = [np.full(2, 0.5), np.full(3, -0.25), np.full(1, 2.0)]
NAMED = {"w": GRADS[0], "v": GRADS[1], "b": GRADS[2]}

# What is handed over, and what it is the same as.
WAYS: dict[str, tuple[Any, Any]] = {
    "an iterator": (iter, list),
    "a generator": (lambda a: (x for x in a), list),
    "values of a dict": (lambda a: dict(zip("wvb", a, strict=True)).values(), list),
    "pairs": (lambda a: list(zip("wvb", a, strict=True)), lambda a: dict(zip("wvb", a, strict=True))),
    "an iterator of pairs": (lambda a: zip("wvb", a, strict=True), lambda a: dict(zip("wvb", a, strict=True))),
    "items": (lambda a: dict(zip("wvb", a, strict=True)).items(), lambda a: dict(zip("wvb", a, strict=True))),
    "groups": (lambda a: [{"params": a[:2]}, {"params": a[2]}], list),
    "groups of iterators": (lambda a: ({"params": iter(a[:2])}, {"params": iter(a[2:])}, {"params": []}), list),
    "groups of pairs": (
        lambda a: [{"params": zip("wv", a[:2], strict=True)}, {"params": {"b": a[2]}}],
        lambda a: dict(zip("wvb", a, strict=True)),
    ),
    "groups of nestings": (lambda a: [{"params": [{"w": a[0]}]}, {"params": a[1:]}], lambda a: [{"w": a[0]}, *a[1:]]),
}


@pytest.mark.parametrize(("given", "same"), WAYS.values(), ids=WAYS)
@by_backend
def test_what_torch_takes_is_a_structure(given: Any, same: Any, backend: str) -> None:
    ours, theirs = three(), three()
    opt, plain = fu.AdamW(given(ours), backend=backend), fu.AdamW(same(theirs), backend=backend)
    for _ in range(2):
        opt.step(same(GRADS))
        plain.step(same(GRADS))
    assert exactly(ours) == exactly(theirs)
    assert exactly(opt.params) == exactly(plain.params)
    assert exactly(opt.state_dict()["arrays"]) == exactly(plain.state_dict()["arrays"])
    again = pickle.loads(pickle.dumps(opt))
    again.step(same(GRADS))
    opt.step(same(GRADS))
    assert exactly(again.state_dict()) == exactly(opt.state_dict())


def test_groups_have_their_own_hyperparameters() -> None:
    a, b = three(), three()
    opt = fu.AdamW(
        [{"params": a[:2], "lr": 0.5}, {"params": a[2:], "weight_decay": 0.25}],
        lr=0.125,
        groups=[{"params": "1", "eps": 1e-3}],
    )
    same = fu.AdamW(
        b,
        lr=0.125,
        groups=[{"params": ["0", "1"], "lr": 0.5}, {"params": "2", "weight_decay": 0.25}, {"params": "1", "eps": 1e-3}],
    )
    assert [(g["params"], g["lr"], g["weight_decay"], g["eps"]) for g in opt.groups] == [
        (["0"], 0.5, 0.01, 1e-8),
        (["1"], 0.5, 0.01, 1e-3),
        (["2"], 0.125, 0.25, 1e-8),
    ]
    for each in (opt, same):
        each.step(GRADS)
    assert exactly(a) == exactly(b)
    assert exactly(opt.state_dict()) == exactly(same.state_dict())


@pytest.mark.peer
def test_the_same_call_as_torch() -> None:
    torch = peer("torch")

    def parameters() -> list[Any]:
        return [torch.nn.Parameter(torch.from_numpy(a)) for a in three()]

    def groups(p: list[Any]) -> list[dict[str, Any]]:
        return [{"params": p[:2], "lr": 0.01, "betas": (0.8, 0.9)}, {"params": iter(p[2:]), "weight_decay": 0.0}]

    theirs, ours = parameters(), parameters()
    steps = torch.optim.AdamW(groups(theirs), lr=0.1), fu.AdamW(groups(ours), lr=0.1)
    for _ in range(5):
        for p in (theirs, ours):
            for tensor, g in zip(p, GRADS, strict=True):
                tensor.grad = torch.from_numpy(g.copy())
        for opt in steps:
            opt.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)
    model = torch.nn.Linear(2, 1)
    assert list(fu.SGD(model.named_parameters()).params) == ["weight", "bias"]
    assert len(fu.SGD(model.parameters()).params) == 2


REFUSED: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "names in one group": (
        lambda a: [{"params": a[:1]}, {"params": {"b": a[1]}}],
        {},
        ValueError,
        r"params\[1\]\['params'\]: expected arrays without names, as in the groups before, received a mapping",
    ),
    "no names in one group": (
        lambda a: [{"params": [("w", a[0])]}, {"params": a[1:]}],
        {},
        ValueError,
        r"params\[1\]\['params'\]: expected a mapping, or pairs with names, as in the groups before",
    ),
    "a name twice": (
        lambda a: [("w", a[0]), ("w", a[1])],
        {},
        ValueError,
        "params: expected a name of its own for each array, received 'w' twice",
    ),
    "a name in two groups": (
        lambda a: [{"params": {"w": a[0]}}, {"params": {"w": a[1]}}],
        {},
        ValueError,
        "params: expected a name of its own for each array, received 'w' twice",
    ),
    "an array in two groups": (
        lambda a: [{"params": a[:2]}, {"params": a[1:]}],
        {},
        ValueError,
        r"params\[2\]: expected memory apart from params\[1\], received overlapping arrays",
    ),
    "no arrays": (lambda a: iter(()), {}, ValueError, "params: expected at least one array"),
    "groups of nothing": (lambda a: [{"params": []}], {}, ValueError, "params: expected at least one array"),
    "a group within groups": (lambda a: [{"params": a}], {"groups": {}}, TypeError, "groups: expected a sequence"),
    "a mistyped name": (
        lambda a: [{"params": a, "learning_rate": 0.1}],
        {},
        KeyError,
        r"learning_rate: no such hyperparameter, did you mean lr\? there are lr,",
    ),
    **{
        f"{flag} in a group": (
            lambda a, flag=flag, value=value: [{"params": a, flag: value}],
            {},
            ValueError,
            rf"{flag}: expected to be set for all tensors, as an .* \(others: .* fu\.Partition, or .*\), received",
        )
        for flag, value in {"amsgrad": True, "maximize": True, "clip_norm": 1.0, "nonfinite": "skip"}.items()
    },
}


@pytest.mark.parametrize(("given", "options", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(given: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=rf"\[adam\] {message}"):
        fu.Adam(given(three()), **options)


def test_a_flag_of_some_tensors_takes_a_second_optimizer() -> None:
    a, b = three(), three()
    for opt, grads in ((fu.Adam(a[:2], amsgrad=True), GRADS[:2]), (fu.Adam(a[2:]), GRADS[2:])):
        opt.step(grads)
    fu.Adam(b).step(GRADS)  # in the first step the largest v is v
    assert exactly(a) == exactly(b)
