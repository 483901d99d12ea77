"""Dense arrays of any order of axes are walked as they lie in memory; sums, units and bits are those of C order."""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

import numpy as np
import pytest
from cases import FIRST_CASES, PRODUCT, Case, assert_same_bits, by_backend, by_dtype, isas, random_arrays

SHAPES = [(37, 53), (64, 33), (5, 7, 3, 4), (2, 3, 4, 5, 6), (1, 1200), (1200, 1)]
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "norm": {"clip_norm": 1.0, "nonfinite": "skip"},
    "monitor": {"monitor": True, "clip_tensor_norm": 1.0, "zero_grads": True},
    "units": {
        "clip_unit_norm": 0.01,
        "ema_decay": 0.9,
        "shadow": "bfloat16",
        "lookahead": (2, 0.5),
        "zero_grads": True,
    },
    "all": {"clip_unit_norm": 0.01, "ema_decay": 0.9, "shadow": "float16", "lookahead": (2, 0.5), "monitor": True},
    "masked": {"optimism": 0.3, "cautious": True, "monitor": True},
}
ORDERS = {  # of the parameter, of its gradient
    "fortran": ("F", "F"),
    "channels-last": ("last", "last"),
    "fortran-and-c": ("F", "C"),
    "c-and-fortran": ("C", "F"),
    "channels-last-and-fortran": ("last", "F"),
}


def in_order(array: np.ndarray, order: str) -> np.ndarray:
    """A copy of the array whose axes lie in memory in an order of their own."""
    if order in ("C", "F"):
        return np.array(array, order=order)
    axes = [0, *range(2, array.ndim), 1]  # channels_last: the second axis is the fastest
    return np.ascontiguousarray(array.transpose(axes)).transpose(np.argsort(axes))


def outcome(case: Case, dtype: Any, options: str, orders: tuple[str, str], backend: str) -> list[np.ndarray]:
    """What steps of every kind leave behind: a plain one, one on accumulated micro-batches, one on samples."""
    sizes = [int(np.prod(shape)) for shape in SHAPES]
    made = [random_arrays(seed, sizes, dtype) for seed in range(6)]
    p, *g = ([in_order(a.reshape(s), order) for a, s in zip(m, SHAPES, strict=True)]
             for m, order in zip(made, (orders[0], *[orders[1]] * 5), strict=True))  # fmt: skip
    opt = case.make(p, backend=backend, **OPTIONS[options])
    tables = [opt.step(g[0]).tensors, opt.step(g[1]).tensors]
    opt.accumulate(g[2])
    opt.accumulate(g[3])
    tables.append(opt.step().tensors)
    tables.append(opt.step([np.stack([a, b]) for a, b in zip(g[4], g[0], strict=True)], reduce="mean").tensors)
    kept = [a for kind in (opt.ema, opt.shadow, *opt.state.values()) if kind is not None for a in kind]
    figures = [t[name] for t in tables if t is not None for name in t.dtype.names[1:]]
    return [*p, *kept, *g[0], *g[1], *figures]


@cache
def expected(case: Case, dtype: Any, options: str) -> list[np.ndarray]:
    return outcome(case, dtype, options, ("C", "C"), "numba")


@by_backend
@by_dtype
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("orders", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("case", FIRST_CASES[:1] + FIRST_CASES[-1:], ids=str)
def test_bits_of_c_order(case, orders, options, dtype, backend):
    assert_same_bits(outcome(case, dtype, options, orders, backend), expected(case, dtype, options), "step")


SUMMED: list[dict[str, Any]] = [
    {"clip_norm": 1.0},
    {"clip_norm": 1.0, "nonfinite": "skip", "monitor": True},
    {"clip_unit_norm": 0.05},
    {"clip_unit_norm": 0.05, "monitor": True, "zero_grads": True},
]


def random_shape(rng: np.random.Generator) -> list[int]:
    """Two to five axes, of up to 200 000 elements in all, alike or very different."""
    shape, most = [1] * int(rng.integers(2, 6)), 10 ** rng.uniform(2, 5.3)
    for axis in rng.integers(len(shape), size=100).tolist():
        grown = int(shape[axis] * rng.uniform(1, 3)) + 1
        if np.prod(shape) // shape[axis] * grown <= most:
            shape[axis] = grown
    return shape


@pytest.mark.skipif(not isas(), reason="no native module")
@pytest.mark.parametrize("seed", range(400 if PRODUCT else 40))
def test_any_shape_in_any_order_of_axes(seed):
    """Random ones, with what needs sums: elements that lie beside each other may be anywhere in C order."""
    rng = np.random.default_rng(seed)
    shape, dtype, options = random_shape(rng), [np.float32, np.float64][seed % 2], SUMMED[seed // 2 % len(SUMMED)]
    case, alike = FIRST_CASES[seed % len(FIRST_CASES)], seed % 3 > 0
    p_axes, g_axes = rng.permutation(len(shape)), rng.permutation(len(shape))
    made = [a.reshape(shape) for a in random_arrays(seed, [prod(shape)] * 3, dtype)]
    made[2].flat[rng.integers(made[2].size, size=3)] = rng.choice([0.0, np.inf, np.nan, 1.0])
    left = []
    for orders in ([np.arange(len(shape))] * 2, (p_axes, p_axes if alike else g_axes)):
        p, *grads = ([np.array(a.transpose(o), order="C").transpose(np.argsort(o))]
                     for a, o in zip(made, (orders[0], *[orders[1]] * 2), strict=True))  # fmt: skip
        opt = case.make(p, backend="native", **options)
        tables = [opt.step(g).tensors for g in grads]
        kept = [a for arrays in opt.state.values() for a in arrays]
        left.append([*p, *grads[0], *kept, *(t[name] for t in tables if t is not None for name in t.dtype.names[1:])])
    assert_same_bits(*left, f"{shape} {p_axes} {g_axes} {options}")


@pytest.mark.peer
def test_states_follow_a_parameter_that_is_laid_out_anew():
    """Its states are copied over, and the steps go on with the bits of a parameter that stayed."""
    from peers import peer

    torch, case = peer("torch"), FIRST_CASES[0]
    values, *grads = random_arrays(3, [60 * 50] * 3, np.float32)
    weights = [torch.nn.Parameter(torch.from_numpy(values.copy().reshape(60, 50))) for _ in range(2)]
    optimizers = [case.make([w]) for w in weights]
    for k, grad in enumerate(grads):
        if k:
            weights[0].data = weights[0].data.t().contiguous().t()
        for weight, opt in zip(weights, optimizers, strict=True):
            weight.grad = torch.from_numpy(grad.reshape(60, 50).copy())
            opt.step()
    assert weights[0].stride() == (1, 60)
    assert_same_bits(weights[0].detach().numpy(), weights[1].detach().numpy(), "weight")
    for state in optimizers[0].state:
        assert_same_bits(optimizers[0].state[state], optimizers[1].state[state], state)


@by_backend
def test_strides_that_change_from_step_to_step(backend: str) -> None:
    """Gradients of one shape, in one buffer, that lie in it otherwise in each step."""
    wide = random_arrays(7, [40 * 40], np.float32)[0].reshape(40, 40)
    cuts = [wide[::2, ::2], wide[:20, ::2], wide[::2, :20], wide[::-2, ::2], wide[::2, ::2].T]
    strided, whole = [np.ones((20, 20), np.float32)], [np.ones((20, 20), np.float32)]
    first, second = (FIRST_CASES[0].make(p, backend=backend) for p in (strided, whole))
    for cut in cuts * 2:
        first.step([cut])
        second.step([np.ascontiguousarray(cut)])
        assert_same_bits(strided, whole, "params")
