"""Arrays that lie in another order than they are worked on are copied by squares, a window at a time, and columns of
one matrix together; sums of what lies in another order go by panels and strands (csrc/cpu/transpose.h, window.h,
columns.h, panels.h, panel_sums.h, strands.h).

The bits are those of contiguous arrays, and nothing else in the same memory changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from math import prod
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from cases import DTYPES, PRODUCT, assert_same_bits, by_dtype, isas, random_arrays

import fastupdate as fu

pytestmark = pytest.mark.skipif(not isas(), reason="no native module")

# Around the side of a square (8, or 16), a cache line of squares, a block (1024), and more than one window.
SHAPES = [(8, 8), (7, 9), (9, 7), (16, 17), (65, 31), (150, 401), (3, 2000), (2000, 3), (1, 1), (0, 5)]
# Rows in which several blocks begin, and of more than one panel (panels.h, strands.h); rows that no window holds.
SHAPES += [(140, 1100), (9, 2048), (9, 4200), (3, 9, 1100)]
# Short rows, of more than one panel, and several to a unit; strips of 16 columns and of as many as are left.
SHAPES += [
    (300, 900),
    (2, 9, 8),
    (3, 20, 9, 17),
    (2, 3, 2, 3, 9),
    (17, 2, 1, 2, 8),
    (2, 150, 7, 19),
    (33, 47),
    (40, 3, 5, 7),
]
FULL: dict[str, Any] = {"ema_decay": 0.9, "shadow": "float16", "clip_unit_norm": 0.01, "zero_grads": True}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped": {"clip_tensor_norm": 0.1},
    "full": FULL,
    "monitored": {**FULL, "monitor": True},
}


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where a thread's part of a tensor ends is where its windows end."""
    before = fu.get_num_threads()
    fu.set_num_threads(request.param)
    yield
    fu.set_num_threads(before)


# One thread in one type, two in the other; each night both in both.
RUNS = [(count, dtype) for count in (1, 2) for dtype in DTYPES if PRODUCT or (count == 1) == (dtype is np.float64)]
by_run = pytest.mark.parametrize(
    ("threads", "dtype"), RUNS, ids=[f"{count}-threads-{t.__name__}" for count, t in RUNS], indirect=["threads"]
)


def backwards(array: np.ndarray) -> np.ndarray:
    return array[(slice(None, None, -1),) * array.ndim]


def misaligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    return np.ndarray(shape, dtype, bytearray(prod(shape) * np.dtype(dtype).itemsize + 1), 1, order="F")


LAYOUTS: dict[str, Callable[[tuple[int, ...], Any], np.ndarray]] = {
    "c": np.empty,
    "fortran": lambda shape, dtype: np.empty(shape, dtype, order="F"),
    "rolled": lambda shape, dtype: np.moveaxis(np.empty(shape[1:] + shape[:1], dtype), -1, 0),
    "last": lambda shape, dtype: np.moveaxis(
        np.empty(shape[:1] + shape[2:] + shape[1:2], dtype), -1, min(1, len(shape) - 1)
    ),
    "outer": lambda shape, dtype: np.empty((*shape[-2::-1], *shape[-1:]), dtype).transpose(
        (*range(len(shape) - 2, -1, -1), len(shape) - 1)
    ),
    "woven": lambda shape, dtype: (  # of four axes, rows of which only the last elements follow upon each other
        np.empty([shape[k] for k in (2, 1, 3, 0)], dtype).transpose((3, 1, 0, 2))
        if len(shape) == 4
        else np.empty(shape, dtype)
    ),
    "backwards": lambda shape, dtype: backwards(np.empty(shape, dtype)),
    "fortran-backwards": lambda shape, dtype: backwards(np.empty(shape, dtype, order="F")),
    "spaced": lambda shape, dtype: np.empty([2 * n for n in shape], dtype, order="F")[
        (slice(1, None, 2),) * len(shape)
    ],
    "offset": lambda shape, dtype: np.empty([n + 3 for n in shape], dtype, order="F")[(slice(2, -1),) * len(shape)],
    "misaligned": misaligned,
}
PAIRS = [("c", g) for g in LAYOUTS if g != "c"] + [(p, "c") for p in LAYOUTS if p != "c"]
PAIRS += [
    ("fortran", "fortran"),
    ("fortran", "rolled"),
    ("rolled", "rolled"),
    ("last", "last"),
    ("outer", "outer"),
    ("offset", "offset"),
]


def laid(array: np.ndarray, layout: str) -> np.ndarray:
    """A copy of the array that lies in memory as the layout says."""
    copy = LAYOUTS[layout](array.shape, array.dtype)
    copy[...] = array
    return copy


def outcome(options: str, dtype: Any, g_dtype: Any, layouts: tuple[str, str]) -> list[np.ndarray]:
    """What plain steps, micro-batches and samples leave."""
    sizes = [prod(shape) for shape in SHAPES]
    made = [[a.reshape(s) for a, s in zip(random_arrays(k, sizes, dtype, 1.5), SHAPES, strict=True)] for k in range(5)]
    p = [laid(a, layouts[0]) for a in made[0]]
    g = [[laid(a.astype(g_dtype), layouts[1]) for a in row] for row in made[1:]]
    opt = fu.AdamW(p, lr=0.1, weight_decay=0.03, backend="native", **OPTIONS[options])
    tables = [opt.step(g[0]).tensors, opt.step(g[1]).tensors]
    opt.accumulate(g[2])
    opt.accumulate(g[3])
    tables.append(opt.step().tensors)
    samples = [laid(np.stack([a, b]), layouts[1]) for a, b in zip(*made[1:3], strict=True)]
    tables.append(opt.step([a.astype(g_dtype, order="K") for a in samples], reduce="mean").tensors)
    kept = [a for kind in (opt.ema, opt.shadow, *opt.state.values()) if kind is not None for a in kind]
    figures = [t[name] for t in tables if t is not None for name in t.dtype.names[1:]]
    return [*p, *kept, *(a for row in g for a in row), *figures]


expected = cache(outcome)


@pytest.mark.usefixtures("threads")
@by_run
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("layouts", PAIRS, ids="-".join)
def test_bits_of_contiguous_arrays(layouts, options, dtype):
    assert_same_bits(outcome(options, dtype, dtype, layouts), expected(options, dtype, dtype, ("c", "c")), options)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads", [1, 2] if PRODUCT else [2], indirect=True)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("g_dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize(
    "layouts", [("c", "fortran"), ("c", "spaced"), ("fortran", "c"), ("fortran", "fortran")], ids="-".join
)
def test_narrow_gradients(layouts, g_dtype, options):
    wanted = expected(options, np.float32, g_dtype, ("c", "c"))
    assert_same_bits(outcome(options, np.float32, g_dtype, layouts), wanted, options)


@by_dtype
@pytest.mark.parametrize("options", [{"monitor": True}, {"clip_norm": 1.0}, {"clip_norm": 1.0, "monitor": True}])
@pytest.mark.parametrize("special", [0.0, -0.0, np.nan, np.inf, "largest"])
@pytest.mark.parametrize("shape", [(140, 4200), (300, 90)], ids=["long-rows", "short-rows"])
def test_panels_of_special_values(shape, special, options, dtype):
    """What fills up rows of lanes counts as nothing; norms that overflow are summed again, scaled."""
    tables = []
    for order in "CF":
        opt = fu.SGD([np.full(shape, 3, dtype, order)], lr=1e-20, momentum=0.9, backend="native", **options)
        g = np.full(shape, 0.5, dtype, order)
        g[::7, ::83] = np.finfo(dtype).max if special == "largest" else special
        reports = [opt.step([g]) for _ in range(2)]
        tables.append([*opt.params, *(np.float64([r.grad_norm or 0, r.nonfinite or 0]) for r in reports)])
        tables[-1] += [r.tensors[name] for r in reports if r.tensors is not None for name in r.tensors.dtype.names[1:]]
    assert_same_bits(*tables, "panels")


# -- columns ----------------------------------------------------------------------------------------------------------


def columns(values: list[np.ndarray], kind: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Arrays with these values, columns of one matrix or not, and the matrix."""
    count, rows, dtype = len(values), len(values[0]), values[0].dtype
    if kind == "apart":
        return [a.copy() for a in values], np.zeros(0)
    around = np.full((rows, 2 * count + 2), 7, dtype)
    inside = around[:, 1 : 2 * count + 1 : 2] if kind == "spaced" else around[:, 1 : count + 1]
    views = [inside[:, k] for k in range(count)]
    if kind == "from-right-to-left":
        views.reverse()
    for view, value in zip(views, values, strict=True):
        view[...] = value
    return views, around


KINDS = ("beside", "spaced", "from-right-to-left", "apart")


def steps(count: int, rows: int, kinds: tuple[str, str], options: str, dtype: Any) -> Iterator[np.ndarray]:
    made = [random_arrays(k, [rows] * count, dtype) for k in range(3)]
    p, around = columns(made[0], kinds[0])
    g = [columns(row, kinds[1])[0] for row in made[1:]]
    opt = fu.AdamW(p, lr=0.1, weight_decay=0.03, backend="native", **OPTIONS[options])
    for grads in (*g, g[0]):
        report = opt.step(grads)
        yield from [] if report.tensors is None else [report.tensors[name] for name in report.tensors.dtype.names[1:]]
    opt.accumulate(g[1])
    opt.step()
    yield from p
    yield from (a for kind in opt.state.values() for a in kind)
    yield from (a for grads in g for a in grads)
    own = {"beside": np.s_[1 : count + 1], "from-right-to-left": np.s_[1 : count + 1]}
    if kinds[0] != "apart":
        rest = np.delete(around, own.get(kinds[0], np.s_[1 : 2 * count + 1 : 2]), axis=1)
        assert (rest == 7).all(), "memory around the columns has changed"


@pytest.mark.usefixtures("threads")
@by_run
@pytest.mark.parametrize("options", ["plain", "monitored"])
@pytest.mark.parametrize("kinds", [(p, g) for p in KINDS for g in KINDS if (p, g) != ("apart", "apart")], ids="-".join)
@pytest.mark.parametrize(("count", "rows"), [(1, 40), (8, 8), (17, 1), (37, 1025), (9, 20_000)])
def test_columns_of_one_matrix(count, rows, kinds, options, dtype):
    got, wanted = (list(steps(count, rows, k, options, dtype)) for k in (kinds, ("apart", "apart")))
    assert_same_bits(got, wanted, "columns")
