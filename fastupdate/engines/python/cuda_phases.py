"""csrc/cuda/phases.cuh for numba-cuda: elements are measured on the device. Ranges are settled on the host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numba import cuda

from fastupdate.engines import records
from fastupdate.engines.python.cuda_driver import load, store
from fastupdate.engines.python.cuda_kernels import (
    BLOCK,
    LANES,
    device,
    end_of_block,
    first_element,
    first_tensor,
    fold_lanes,
    gradient,
    gradient_factor,
    maximum,
    push,
    scaled,
    total,
    weight,
)
from fastupdate.engines.python.measuring import Measured

MOST_SUMS = 4  # of one phase (csrc/core/extents.h)
ROW_CHUNK = records.ROW_CHUNK


@device
def joined(a, b, largest):
    """How two terms come together."""
    return maximum(a, b) if largest else a + b


@device
def unchanged(t, group, scalars, i, g, p, x):
    """In the place of a rule's change of p, where nothing measures it."""
    return p


def make_measure(terms: Any, change: Any, run: Mapping[str, Any], phase: Measured) -> Any:
    """One phase: terms(t, group, scalars, i, g, p, x) gives what an element adds to its sums, in t.work.

    change   gives x, the change of p, without keeping states
    run      by place, what its stages make of g, p or x, without keeping anything
    phase    how many sums there are, which are maxima, and how it goes through a tensor
    """
    count, maxima, by_rows = phase.terms, phase.maxima, phase.by_rows
    measure_piece = make_piece(make_terms(terms, change, run), phase)
    measure_chunk = make_chunk(measure_piece, phase)

    def measure(tensors, layouts, groups, scalars, unit_scale, scale, stages, kind, zero):
        """A block of elements for each CUDA block; or the chunks of rows that start in one."""
        lanes = cuda.shared.array((MOST_SUMS, LANES), np.float64)
        block, lane = cuda.blockIdx.x, cuda.threadIdx.x
        t = tensors[first_tensor(tensors, block)]
        if t.kind != kind:
            return
        step = layouts, groups[t.group], scalars[t.group], unit_scale, scale, stages
        begin, end = first_element(t, block, 0), end_of_block(t, block)
        if by_rows:
            for first in range((begin + t.columns - 1) // t.columns, (end + t.columns - 1) // t.columns):
                if first % t.rows % ROW_CHUNK == 0:
                    measure_chunk(t, step, lanes, lane, first, zero)
            return
        measure_piece(t, step, lanes, lane, begin, end - begin, 0, True, zero)
        if lane < count:
            store(t.work + 8 * (count * (1 + begin // BLOCK) + lane), fold_lanes(lanes, lane, maxima >> lane & 1))

    return measure


def make_terms(terms: Any, change: Any, run: Mapping[str, Any]) -> Any:
    """What element i adds to each sum. step: as `measure` makes it."""
    run_gradient, run_before, run_change = run["gradient"], run["before"], run["change"]

    @device
    def terms_of(t, step, i, zero):
        layouts, group, scalars, unit_scale, scale, stages = step
        p = weight(t, layouts, i, zero)
        g = scaled(t, gradient(t, layouts, i, zero), gradient_factor(t, unit_scale, scale, i))
        g = run_gradient(t, group, stages, i, g, p, g)
        p = run_before(t, group, stages, i, g, p, p)
        x = run_change(t, group, stages, i, g, p, change(t, group, scalars, i, g, p, p))
        return terms(t, group, scalars, i, g, p, x)

    return terms_of


def make_piece(terms_of: Any, phase: Measured) -> Any:
    """At most a block of elements, by lanes; each is also joined with what its column has come to, from `below` on."""
    count, maxima, columns = phase.terms, phase.maxima, phase.columns

    @device
    def measure_piece(t, step, lanes, lane, begin, n, below, anew, zero):
        for k in range(count):
            lanes[k, lane] = 0.0
        for i in range(lane, n, LANES):
            found = terms_of(t, step, begin + i, zero)
            for k in range(count):
                largest = maxima >> k & 1
                lanes[k, lane] = joined(lanes[k, lane], found[k], largest)
                if columns:
                    at = below + 8 * (k * t.columns + i)
                    before = np.float64(0.0) if anew else load(at, np.float64(0.0))
                    store(at, joined(before, found[k], largest))
        cuda.syncthreads()

    return measure_piece


def make_chunk(measure_piece: Any, phase: Measured) -> Any:
    """The rows from one on that are a chunk, one after the other; thread k folds sum k."""
    count, maxima = phase.terms, phase.maxima

    @device
    def measure_chunk(t, step, lanes, lane, first, zero):
        level = cuda.local.array(64, np.float64)
        width, largest = t.columns, maxima >> lane & 1
        chunk = first // t.rows * ((t.rows + ROW_CHUNK - 1) // ROW_CHUNK) + first % t.rows // ROW_CHUNK
        below = t.work + 8 * count * (1 + t.n // width + chunk * width)
        for row in range(first, min(first + ROW_CHUNK, (first // t.rows + 1) * t.rows)):
            pieces = 0
            for c in range(0, width, BLOCK):
                n = min(BLOCK, width - c)
                measure_piece(t, step, lanes, lane, row * width + c, n, below + 8 * c, row == first, zero)
                if lane < count and largest:
                    level[0] = joined(level[0] if pieces else 0.0, fold_lanes(lanes, lane, True), True)
                elif lane < count:
                    push(level, pieces, fold_lanes(lanes, lane, False))
                cuda.syncthreads()
                pieces += 1
            if lane < count:
                store(t.work + 8 * (count * (1 + row) + lane), level[0] if largest else total(level, pieces))

    return measure_chunk
