"""What tests of fastupdate.torch share: small models, layouts of parameters, runs beside torch's own optimizers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import golden
import numpy as np
import pytest
from cases import EVERY_CASE, EVERY_PHASED_CASE, OURS_ALONE, RULES, Case, random_arrays
from golden.peers import Torch
from peers import Module

import fastupdate as fu
from fastupdate import rules

torch: Any = Module("torch")

# Rules that torch has, but whose states are others, or which move other tensors: tests of their own are beside it.
OTHERWISE = ("adafactor", "muon", "sparseadam")
# Rules whose states are torch's too, as their golden rows say.
TORCHS = tuple(
    name
    for name, rule in rules.every().items()
    if name not in OTHERWISE
    and any(
        isinstance(row.peer, Torch) and (row.peer.of, row.peer.name) == ("torch.optim", rule.formula.__name__)
        for row in golden.rows(name).values()
    )
)
# Rules that move tensors of any shape, each by itself; others have tests of their own (those that keep numbers of the
# whole list: test_torch_listed.py).
CASES_HERE = [
    case
    for case in EVERY_CASE
    if case.rule in {*RULES, *TORCHS}
    and (rule := fu.rules.get(case.rule).rule).matrix is None
    and "list" not in rule.extents.values()
]
LISTED = [case for case in EVERY_PHASED_CASE if rules.every()[case.rule].states_of("list")]
LACKING = {"rprop": {"weight_decay"}}  # those that its class of one rule has not
by_case = pytest.mark.parametrize("case", CASES_HERE, ids=str)
by_rule = pytest.mark.parametrize(
    "case", list({case.rule: case for case in CASES_HERE if not OURS_ALONE & case.kwargs.keys()}.values()), ids=str
)
BESIDE_TORCH = [case for case in CASES_HERE if case.rule in TORCHS and not OURS_ALONE & case.kwargs.keys()]


@contextmanager
def default_dtype(dtype: Any) -> Iterator[None]:
    """Lets torch keep its numbers of a parameter (NAdam's product, ASGD's η and μ) in this type: its default one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, np.dtype(dtype).name))
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SHAPES = [(5,), (3, 4), (), (0, 7), (2, 3, 4, 5), (1,), (1030,), (1, 6, 1, 2)]


def _channels_last(t: Any) -> Any:
    return t.to(memory_format=torch.channels_last) if t.dim() == 4 else t


def _transposed(t: Any) -> Any:
    return t.T.contiguous().T if t.dim() == 2 else t


def _strided(t: Any) -> Any:
    return torch.stack([t, t], -1)[..., 0]


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "contiguous": lambda t: t,
    "channels_last": _channels_last,
    "transposed": _transposed,
    "strided": _strided,
}


def tensors(seed: int, dtype: Any = np.float32, layout: str = "contiguous") -> list[Any]:
    """Tensors of SHAPES of both signs, none of whose elements is zero."""
    arrays = random_arrays(seed, [int(np.prod(shape)) for shape in SHAPES], dtype, spread=1.0)
    return [LAYOUTS[layout](torch.from_numpy(a.reshape(s).copy())) for a, s in zip(arrays, SHAPES, strict=True)]


def parameters(seed: int, *args: Any) -> list[Any]:
    return [torch.nn.Parameter(t) for t in tensors(seed, *args)]


def hand_over(params: list[Any], grads: list[Any]) -> None:
    """The gradients as backward leaves them: in the layout of the parameters."""
    for p, g in zip(params, grads, strict=True):
        p.grad = None if g is None else torch.empty_like(p).copy_(g)


def arrays_of(parts: list[Any]) -> list[np.ndarray]:
    return [p.detach().numpy() for p in parts]


def ours(case: Case, params: Any, **options: Any) -> Any:
    """The optimizer of fastupdate.torch for a case."""
    cls = getattr(fu.torch, fu.rules.get(case.rule).rule.formula.__name__)
    return cls(params, **{**case.kwargs, **options})


def theirs(case: Case, params: Any, **options: Any) -> Any:
    """That of torch.optim, for rules that it has."""
    return getattr(torch.optim, fu.rules.get(case.rule).rule.formula.__name__)(params, **{**case.kwargs, **options})
