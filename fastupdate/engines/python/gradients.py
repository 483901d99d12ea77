"""Gradients for Numba: one array, several, or few rows (csrc/cpu/rows.h)."""

from __future__ import annotations

import numpy as np

from fastupdate.engines import records
from fastupdate.engines.python.compiling import compiled, inlined
from fastupdate.engines.python.tiles import load_tile, view, write_tile

WORDS = records.ROWS.itemsize // 8
LENGTH, COUNT, LAZY, AT, STARTS, POSITIONS = range(WORDS)
INTEGERS = np.empty(0, np.int64)


@inlined
def sample_of(t, s):
    """The address of a gradient's sample."""
    return np.uint64(np.int64(t.g) + s * t.sample_stride)


@inlined
def rows_of(t):
    """The record of the rows that a gradient touches: LENGTH, COUNT …"""
    return view(t.touched, WORDS, INTEGERS)


@inlined
def is_lazy(t):
    return t.touched and rows_of(t)[LAZY]


@compiled
def sum_row(t, k, column, out):
    """out ← what touches the k-th of these rows, summed in order, from a column on."""
    rows = rows_of(t)
    starts = view(rows[STARTS], rows[COUNT] + 1, INTEGERS)
    positions = view(rows[POSITIONS], starts[k + 1], INTEGERS)
    load_tile(t.g_dtype, t.g, 0, positions[starts[k]] * rows[LENGTH] + column, out)
    sample = np.empty_like(out)
    for s in range(starts[k] + 1, starts[k + 1]):
        load_tile(t.g_dtype, t.g, 0, positions[s] * rows[LENGTH] + column, sample)
        for i in range(len(out)):
            out[i] = out[i] + sample[i]


@compiled
def load_rows(t, begin, out):
    """out ← the gradient of a tile: of the touched rows, one after the other, if those alone are counted; else of the
    tensor, where rows that are not touched have zeros."""
    rows, end = rows_of(t), begin + len(out)
    length, at = rows[LENGTH], view(rows[AT], rows[COUNT], INTEGERS)
    out[:] = 0
    k = begin // length if rows[LAZY] else np.searchsorted(at, begin // length)
    while k < len(at):
        row = (k if rows[LAZY] else at[k]) * length
        if row >= end:
            break
        first, stop = max(row, begin), min(row + length, end)
        sum_row(t, k, first - row, out[first - begin : stop - begin])
        k += 1


@compiled
def gradient_tile(t, begin, out):
    """out ← the raw gradient of a tile: one array, or the sum of several in order, or of few rows."""
    if t.touched:
        load_rows(t, begin, out)
        return
    load_tile(t.g_dtype, t.g, t.g_layout, begin, out)
    if t.samples > 1:
        sample = np.empty_like(out)
        for s in range(1, t.samples):
            load_tile(t.g_dtype, sample_of(t, s), t.g_layout, begin, sample)
            for k in range(len(out)):
                out[k] = out[k] + sample[k]


@compiled
def clear_gradient(t, begin, n, like):
    for s in range(t.samples):
        if t.g_dtype == t.dtype:
            write_tile(sample_of(t, s), t.g_layout, begin, np.zeros(n, like.dtype))
        else:
            write_tile(sample_of(t, s), t.g_layout, begin, np.zeros(n, np.uint16))
