"""Row 7 of the fault table: parameters, states and gradients that overlap are refused, and nothing has changed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from cases import by_backend, cases_of
from unchanged import raises_unchanged

import fastupdate as fu
from fastupdate.arrays import overlap
from fastupdate.arrays.place import Place

ADAM = cases_of("adam")[0]


def buffer() -> np.ndarray:
    return np.zeros(20, np.float32)


OVERLAPS: dict[str, tuple[Callable[[np.ndarray], list[np.ndarray]], str]] = {
    "7-same-twice": (lambda b: [b[:5], b[5:9], b[:5]], r"params\[2\]: expected memory apart from params\[0\]"),
    "7-overlapping": (lambda b: [b[:5], b[4:9]], r"params\[1\]: expected memory apart from params\[0\]"),
    "7-inside": (lambda b: [b[:9], b[3:4]], r"params\[1\]: expected memory apart from params\[0\]"),
    "7-stride-0": (lambda b: [np.lib.stride_tricks.as_strided(b, (4,), (0,))], "addresses of their own"),
    "7-windows": (lambda b: [np.lib.stride_tricks.sliding_window_view(b, 3, writeable=True)], "addresses of their own"),
    "7-reversed": (lambda b: [b[:6], b[8:3:-1]], r"memory apart from"),
}


@pytest.mark.parametrize("name", OVERLAPS)
def test_overlapping_parameters(name):
    views, words = OVERLAPS[name]
    with pytest.raises(ValueError, match=words):
        fu.Adam(views(buffer()))


@by_backend
def test_7_interleaved_parameters_are_apart(backend):
    b = buffer()
    fu.SGD([b[::2], b[1::2]], lr=1.0, backend=backend).step([np.ones(10, np.float32), np.full(10, 2, np.float32)])
    assert b.tolist() == [-1.0, -2.0] * 10


def matrix(rows: int, columns: int) -> np.ndarray:
    return np.zeros((rows, columns), np.float32)


def columns(n: int) -> list[np.ndarray]:
    return list(matrix(3, n).T)


INTERLEAVED: dict[str, Callable[[int], list[np.ndarray]]] = {
    "columns": columns,
    "columns of two matrices": lambda n: columns(n // 2) + columns(n - n // 2)[::-1],
    "reversed columns": lambda n: list(matrix(3, n)[::-1].T),
    "every n-th element": lambda n: [row[k::n] for row in [np.zeros(3 * n, np.float32)] for k in range(n)],
    "blocks": lambda n: [b for part in np.split(matrix(4, 2 * n), 2) for b in np.hsplit(part, n // 2)],
    "every n-th column": lambda n: [m[:, k::n] for m in [matrix(4, 3 * n)] for k in range(n)],
    "every n-th column, and one more": lambda n: [m[:, k::n] for m in [matrix(4, 3 * n + 1)] for k in range(n)],
    "slices of a cube": lambda n: [c[:, k] for c in [np.zeros((3, n, 4), np.float32)] for k in range(n)],
    "columns around a block": lambda n: [c for m in [matrix(4, n + 3)] for c in (m[:, 2:5], *m.T[:2], *m.T[5:])],
}


@pytest.mark.parametrize("name", INTERLEAVED)
def test_7_work_grows_as_the_number_of_arrays(name, monkeypatch):
    """What lies in one another is not compared pair by pair; and one that overlaps is found among the others."""
    looks: list[int] = []
    for work in ("_span", "_stretch", "check_separate"):
        known = getattr(overlap, work)
        monkeypatch.setattr(overlap, work, lambda *a, known=known: (looks.append(1), known(*a))[1])
    counted = []
    for n in (60, 240):
        arrays = INTERLEAVED[name](n)
        looks.clear()
        overlap.check_overlaps(arrays, named)
        counted.append(len(looks))
        with pytest.raises(ValueError, match=rf"\[sgd\] ({n // 2}|{n}): expected memory apart from ({n // 2}|{n}),"):
            overlap.check_overlaps([*arrays[:n], arrays[n // 2]], named)
    assert counted[1] <= 4.5 * counted[0]


def named(k: int) -> Place:
    return Place("sgd", str(k))


def some_view(rng: np.random.Generator, of: np.ndarray) -> np.ndarray:
    """A part of a matrix or of its elements in a row: any start, end and step along each axis."""
    whole = of if rng.random() < 0.7 else of.reshape(-1)
    parts = []
    for size in whole.shape:
        first, length, step = rng.integers(size), rng.integers(1, size + 1), int(rng.choice([1, 1, 2, 3, -1, -2]))
        parts.append(slice(first, min(size, first + length) if step > 0 else None, step))
    return whole[tuple(parts)]


@pytest.mark.parametrize("pair", [0, 64, 10**9])
def test_7_any_views_are_apart_exactly_where_they_share_no_element(pair, monkeypatch):
    monkeypatch.setattr(overlap, "PAIR", pair)  # so that pairs and places are looked at
    rng, found = np.random.default_rng(7), []
    for _ in range(600):
        memory = np.arange(rng.integers(2, 9) * 12).reshape(-1, 12)[:, : rng.integers(2, 13)].copy()
        views = [some_view(rng, memory) for _ in range(rng.integers(2, 6))]
        elements = np.concatenate([view.ravel() for view in views])
        try:
            overlap.check_overlaps(views, named)
            found.append(True)
        except ValueError:
            found.append(False)
        assert found[-1] == (len(np.unique(elements)) == len(elements)), [v.tolist() for v in views]
    assert 100 < sum(found) < 500


GRADIENT_OVERLAPS: dict[str, tuple[Callable[[fu.Optimizer], np.ndarray], str]] = {
    "7-the-parameter": (lambda opt: opt.stepper.items[0].array, r"params\[0\]"),
    "7-another-parameter": (lambda opt: opt.stepper.items[1].array, r"params\[1\]"),
    "7-a-state": (lambda opt: opt.state["m"][1], r"state\['m'\]\[1\]"),
    "7-the-average": (lambda opt: opt.ema[0], r"ema\[0\]"),
}


@pytest.mark.parametrize("name", GRADIENT_OVERLAPS)
@by_backend
def test_overlapping_gradient(backend, name):
    pick, words = GRADIENT_OVERLAPS[name]
    opt = ADAM.make([np.ones(6, np.float32), np.ones(6, np.float32)], ema_decay=0.9, backend=backend)
    words = rf"grads\[0\]: expected memory apart from {words}, received overlapping arrays"
    raises_unchanged(opt, [pick(opt), np.ones(6, np.float32)], ValueError, words)


@by_backend
@pytest.mark.parametrize("shift", [-5, -1, 1, 5])
def test_7_a_gradient_that_overlaps_one_end(backend, shift):
    memory = np.ones(18, np.float32)
    opt = fu.SGD([memory[6:12]], backend=backend)
    opt.step([memory[:6]])  # next to it: allowed
    opt.step([memory[12:]])
    words = r"grads\[0\]: expected memory apart from params\[0\]"
    raises_unchanged(opt, [memory[6 + shift :][:6]], ValueError, words)


@by_backend
def test_7_gradients_to_be_zeroed_overlap(backend):
    g = np.ones(9, np.float32)
    opt = fu.SGD([np.ones(5, np.float32), np.ones(5, np.float32)], zero_grads=True, backend=backend)
    raises_unchanged(opt, [g[:5], g[4:]], ValueError, r"grads\[1\]: expected memory apart from grads\[0\]")
    fu.SGD([np.ones(5, np.float32), np.ones(5, np.float32)], backend=backend).step([g[:5], g[4:]])  # only read: allowed


@by_backend
def test_7_gradients_to_be_zeroed_overlap_later(backend):
    g = np.ones(9, np.float32)
    opt = fu.SGD([np.ones(5, np.float32), np.ones(4, np.float32)], zero_grads=True, backend=backend)
    apart, overlapping = [g[:5], g[5:]], [g[:5], g[4:8]]
    for _ in range(2):
        opt.step(apart)
        for _ in range(2):  # what was refused once is refused again
            g[:] = 1
            raises_unchanged(opt, overlapping, ValueError, r"grads\[1\]: expected memory apart from grads\[0\]")
    opt.accumulate(apart)
    opt.step()
    g[:] = 1
    raises_unchanged(opt, overlapping, ValueError, r"grads\[1\]: expected memory apart from grads\[0\]")
    opt.step(apart)


@by_backend
def test_7_gradients_to_be_zeroed_lie_in_a_frozen_tensor(backend):
    params = [np.ones(5, np.float32), np.ones(5, np.float32)]
    opt = fu.SGD(params, zero_grads=True, backend=backend)
    opt.freeze("1")
    raises_unchanged(opt, [params[1], None], ValueError, r"memory apart from (params\[1\]|grads\[0\])")
