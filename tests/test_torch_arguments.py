"""What the classes of fastupdate.torch take, beside torch's own: names, order, defaults, and None for a number."""

from __future__ import annotations

import inspect

import pytest
from peers import file_needs
from torch_cases import OTHERWISE, TORCHS, torch

import fastupdate as fu

pytestmark = pytest.mark.peer
file_needs("torch")


def test_every_class_that_torch_has_is_there_but_for_one() -> None:
    """As docs/torch.md says: LBFGS calls its closure many times in a step, and is no rule of elements."""
    theirs = {n for n, cls in vars(torch.optim).items() if isinstance(cls, type) and hasattr(cls, "add_param_group")}
    assert theirs - fu.torch.classes.CLASSES.keys() == {"Optimizer", "LBFGS"}


def test_every_rule_that_torch_has_is_compared_with_it() -> None:
    shared = {cls.rule.name for name, cls in fu.torch.classes.CLASSES.items() if hasattr(torch.optim, name)}
    assert shared == {*TORCHS, *OTHERWISE}, "golden rows beside torch.optim, or a place in OTHERWISE, for the others"


def test_every_argument_of_torchs_is_taken() -> None:
    for name, cls in fu.torch.classes.CLASSES.items():
        mine, torchs = (inspect.signature(each).parameters for each in (cls, getattr(torch.optim, name, cls)))
        assert torchs.keys() <= mine.keys(), name


def test_every_rule_that_torch_has_keeps_torchs_names() -> None:
    for name, cls in fu.torch.classes.CLASSES.items():
        if hasattr(torch.optim, name):
            assert cls.rule.name in fu.torch.names.STATES, f"{name} needs a row in fastupdate/torch/names.py"


def test_arguments_that_torch_has_too_have_torchs_defaults() -> None:
    for name, cls in fu.torch.classes.CLASSES.items():
        mine, torchs = (inspect.signature(each).parameters for each in (cls, getattr(torch.optim, name, cls)))
        for argument in mine.keys() & torchs.keys():
            assert mine[argument].default == torchs[argument].default, f"{name}: {argument}"


def test_what_torch_takes_by_position_is_taken_so_and_all_else_by_name() -> None:
    """So nothing that a call says by position means something else here: `foreach` is the last of many."""
    for name, cls in fu.torch.classes.CLASSES.items():
        taken = [inspect.signature(each).parameters.values() for each in (cls, getattr(torch.optim, name, cls))]
        mine, torchs = ([each.name for each in one if each.kind is each.POSITIONAL_OR_KEYWORD] for one in taken)
        assert mine == torchs, name
    w = torch.nn.Parameter(torch.ones(2, 2))
    with pytest.raises(TypeError, match=r"SGD\(\) too many positional arguments"):
        fu.torch.SGD([w], 0.1, 0.9, 0.0, 0.0, True, True)
    [group] = fu.torch.Adagrad([w], 0.1, 0.0, 0.0, 0.0, 1e-10, True).param_groups
    assert (group["foreach"], group["eps_inside"]) == (True, False)


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_none_is_the_spacing_of_the_weights_type(name: str) -> None:
    """Of a matrix with gradients so small that it decides."""
    dtype = getattr(torch, name)
    start = torch.linspace(-1, 2, 12, dtype=dtype).reshape(3, 4)
    params = [torch.nn.Parameter(start.clone()) for _ in range(2)]
    optimizers = [
        make([p], weight_decay=0.1) for make, p in zip((fu.torch.Adafactor, torch.optim.Adafactor), params, strict=True)
    ]
    for k in range(3):
        for p, optimizer in zip(params, optimizers, strict=True):
            p.grad = start * (1 + k) * torch.finfo(dtype).eps
            optimizer.step()
    torch.testing.assert_close(params[0], params[1], rtol=8 * torch.finfo(dtype).eps, atol=0)
    assert optimizers[0].param_groups[0]["eps"] == (None, 1e-3)


def test_none_in_a_group_of_several_types() -> None:
    params = [torch.nn.Parameter(torch.ones(2, dtype=dtype)) for dtype in (torch.float32, torch.float64)]
    optimizer = fu.torch.Adafactor(params)
    for p in params:
        p.grad = torch.ones_like(p)
    with pytest.raises(ValueError, match=r"\[adafactor\] eps: expected a number for eps1, in a group of several types"):
        optimizer.step()
    optimizer.param_groups[0]["eps"] = [1e-7, 1e-3]
    optimizer.step()
