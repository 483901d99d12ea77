"""Narrow gradients that overlap, and what narrow types are not for: refused by name; neighbours are left alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import by_backend, fingerprint
from storage import LIBRARIES, NARROW, library_array, narrow

import fastupdate as fu
from fastupdate import functional
from fastupdate.arrays import memory

by_kind = pytest.mark.parametrize("kind", NARROW)


# -- overlaps ---------------------------------------------------------------------------------------------------------


@by_backend
@by_kind
def test_neighbours_in_one_buffer(kind, backend):
    """Gradients one after the other, then the parameters: none overlaps, and that is known without looking closely."""
    n, dtype = 100, memory.STORAGE[kind].dtype
    raw = np.zeros(2 * n * 2 + 2 * n * 4, np.uint8)
    grads = list(raw[: 4 * n].view(dtype).reshape(2, n))
    params = list(raw[4 * n :].view(np.float32).reshape(2, n))
    opt = fu.SGD(params, lr=0.5, zero_grads=True, backend=backend)
    for g in grads:
        g[...] = narrow(np.ones(n, np.float32), kind)
    opt.step(grads)
    assert not opt.stepper.plan.zeroing_may_harm()
    assert not raw[: 4 * n].any()
    assert (np.array(params) == -0.5).all()


OVERLAPS: dict[str, tuple[Callable[[np.ndarray], list[slice]], str]] = {
    "each other": (lambda raw: [slice(0, 200), slice(198, 398)], "grads"),
    "parameter": (lambda raw: [slice(0, 200), slice(202, 402)], "params"),
    "last byte": (lambda raw: [slice(0, 200), slice(201, 401)], "params"),
}


@by_backend
@by_kind
@pytest.mark.parametrize("name", OVERLAPS)
def test_overlaps_are_refused(name, kind, backend):
    cuts, other = OVERLAPS[name]
    raw = np.zeros(1200, np.uint8)
    params = [raw[400:800].view(np.float32), raw[800:].view(np.float32)]
    grads = [raw[cut].view(memory.STORAGE[kind].dtype) for cut in cuts(raw)]
    opt = fu.SGD(params, lr=0.5, zero_grads=True, backend=backend)
    with pytest.raises(ValueError, match=rf"\[sgd\] grads\[1\]: expected memory apart from {other}\[0\]"):
        opt.step(grads)
    assert not raw.any()


# -- what narrow types are not for -------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Any, Callable[[np.ndarray], Any], str]] = {
    "float64 parameter": (np.float64, lambda g: g, "expected float64, received {kind}"),
    "byte-swapped": (np.float32, lambda g: g.view(np.uint16).view(">f2"), "received byte-swapped float16"),
    "bits alone": (np.float32, lambda g: g.view(np.uint16), "expected float32, received uint16"),
    "shape": (np.float32, lambda g: g[:2], "expected shape"),
    "own structure": (np.float32, lambda g: g.view(np.dtype([("x", "u2")])), "expected float32, received the fields x"),
}


@by_backend
@by_kind
@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, kind, backend):
    dtype, damage, words = REFUSED[name]
    opt = fu.Adam([np.ones(3, dtype), np.ones(3, dtype)], backend=backend)
    good, bad = np.ones(3, dtype), damage(narrow(np.ones(3, np.float32), kind))
    before = fingerprint(opt, bad)
    with pytest.raises((TypeError, ValueError), match=re.escape("[adam] grads[1]: ") + ".*" + words.format(kind=kind)):
        opt.step([good, bad])
    assert fingerprint(opt, bad) == before


@by_kind
@pytest.mark.parametrize("library", LIBRARIES[:2])
@pytest.mark.parametrize("argument", ["params", "state['m']"])
def test_gradients_alone_may_be_narrow(argument, library, kind):
    p, g, m, v = np.ones(3, np.float32), np.ones(3, np.float32), np.zeros(3, np.float32), np.zeros(3, np.float32)
    p, m = (
        library_array(library, a, kind) if argument == name else a for a, name in ((p, "params"), (m, "state['m']"))
    )
    with pytest.raises(TypeError, match=re.escape(f"[adam] {argument}: expected float32") + f".*received {kind}"):
        functional.adam(p, g, m, v, step=1)
