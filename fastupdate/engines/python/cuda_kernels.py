"""csrc/cuda/engine.cuh and csrc/core/sums.h for numba-cuda: the same arithmetic in the same order.

One CUDA block of 32 threads works on one block of 1024 elements: thread j on elements j, j + 32, …, which is how sums
are defined.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda import types
from numba.cuda.np.numpy_support import from_dtype

from fastupdate.arrays import memory
from fastupdate.engines import records
from fastupdate.engines.python import codecs, cuda_driver, kernels, sums, tiles
from fastupdate.engines.python.cuda_driver import bits_float, float_bits, load, load_bytes, store, store_bytes
from fastupdate.stages import PLACES

BLOCK, LANES = records.BLOCK, records.LANES
ACCUMULATOR, SHADOW = records.ACCUMULATOR, records.SHADOW
ZERO_GRADS, MONITOR = records.ZERO_GRADS, records.MONITOR
FLOAT64 = memory.STORAGE["float64"].code
FLOAT16, BFLOAT16, LAYOUT_WORDS, SMALLEST = tiles.FLOAT16, tiles.BFLOAT16, tiles.LAYOUT_WORDS, tiles.SMALLEST
COLUMNS = len(records.SUMS.names or ())
GG, PP, UU, GM, MM, GU, LARGEST, NONFINITE, ZEROS, STALLED = range(COLUMNS)

# The records of csrc/core/plan.h, aligned as there. Addresses are signed: an unsigned one plus a signed index would
# become a float. In the simulator `t.dtype` would be the record's own.
GROUP = np.dtype(records.GROUP.descr, align=True)
TENSOR = np.dtype(
    [
        ("kind" if name == "dtype" else name, "i8" if field.base == "u8" else field.base, field.shape)
        for name, (field, *_) in (records.TENSOR.fields or {}).items()
    ],
    align=True,
)

device = cuda.jit(device=True)
first_tensor = device(kernels.first_tensor.py_func)
maximum, push, total = (device(each.py_func) for each in (sums.maximum, sums.push, sums.total))
offset_of = device(tiles.offset_of.py_func)
from_float16, from_bfloat16, to_float16, to_bfloat16 = codecs.compiled_codecs(device, float_bits, bits_float)


@device
def cast(x, like):
    """A float64 rounded once to the type of `like`."""
    return type(like)(x)


@device
def positive_part(x):
    return maximum(x, x - x)


@device
def item_size(t):
    return 8 if t.kind == FLOAT64 else 4


@device
def locate(base, layouts, layout, i, size):
    """The address of element i, in C order, of an array whose layout is row `layout` − 1; 0: it is contiguous."""
    return base + (offset_of(layouts[layout - 1], i) if layout else i * size)


@device
def load_at(address, layout, like):
    """A value of an array with this layout: those that have one may be misaligned."""
    return load_bytes(address, like) if layout else load(address, like)


@device
def store_at(address, layout, x):
    if layout:
        store_bytes(address, x)
    else:
        store(address, x)


@device
def load_stored(storage, address, layout, zero):
    """A value of any storage type."""
    if storage == FLOAT16:
        return cast(from_float16(load_at(address, layout, np.uint16(0))), zero)
    if storage == BFLOAT16:
        return cast(from_bfloat16(load_at(address, layout, np.uint16(0))), zero)
    return load_at(address, layout, zero)


@device
def weight(t, layouts, i, zero):
    return load_at(locate(t.p, layouts, t.p_layout, i, item_size(t)), t.p_layout, zero)


@device
def gradient_size(t):
    return 2 if t.g_dtype in (FLOAT16, BFLOAT16) else item_size(t)


@device
def gradient(t, layouts, i, zero):
    """The raw gradient of element i: one array, or the sum of several in order."""
    at = locate(t.g, layouts, t.g_layout, i, gradient_size(t))
    g = load_stored(t.g_dtype, at, t.g_layout, zero)
    for k in range(1, t.samples):
        g = g + load_stored(t.g_dtype, at + k * t.sample_stride, t.g_layout, zero)
    return g


@device
def scaled(t, g, factor):
    """factor·g, where float32 may not have all digits of the factor (csrc/core/scalar.h, Factor)."""
    if item_size(t) == 4 and abs(factor) < SMALLEST:
        return g * cast(SMALLEST, g) * cast(factor / SMALLEST, g)
    return g * cast(factor, g)


@device
def clear_gradient(t, layouts, i, zero):
    size = gradient_size(t)
    at = locate(t.g, layouts, t.g_layout, i, size)
    for k in range(t.samples):
        if size == 2:
            store_at(at + k * t.sample_stride, t.g_layout, np.uint16(0))
        else:
            store_at(at + k * t.sample_stride, t.g_layout, zero)


@device
def gradient_factor(t, unit_scale, scale, i):
    """What turns the raw gradient of element i into the one that the rule sees."""
    factor = scale * t.scale
    if t.unit_scale:
        factor *= unit_scale[t.unit_scale - 1 + i // t.unit_length]
    return factor


@device
def copy_out(t, i, p):
    """The low-precision copy of an element."""
    if t.slot[SHADOW]:
        bits = to_float16(p) if t.shadow_dtype == FLOAT16 else to_bfloat16(p)
        store(t.slot[SHADOW] + 2 * i, np.uint16(bits))


@device
def add_product(lanes, column, lane, x, y):
    lanes[column, lane] += np.float64(x) * np.float64(y)


@device
def sum_gradient(lanes, lane, g):
    add_product(lanes, GG, lane, g, g)
    lanes[NONFINITE, lane] += 0 if g - g == 0 else 1
    lanes[ZEROS, lane] += 1 if g == 0 else 0


@device
def sum_momentum(lanes, lane, g, m):
    add_product(lanes, GM, lane, g, m)
    add_product(lanes, MM, lane, m, m)


@device
def sum_update(lanes, lane, before, after, g):
    u = after - before
    add_product(lanes, PP, lane, after, after)
    add_product(lanes, UU, lane, u, u)
    add_product(lanes, GU, lane, g, u)
    lanes[LARGEST, lane] = maximum(np.float64(-u if u < 0 else u), lanes[LARGEST, lane])


@device
def clear_lanes(lanes, lane):
    for column in range(COLUMNS):
        lanes[column, lane] = 0.0


@device
def fold_lanes(lanes, column, largest):
    """One column's lanes, folded pairwise by one thread; or the largest of them."""
    width = LANES // 2
    while width:
        for j in range(width):
            a, b = lanes[column, j], lanes[column, j + width]
            lanes[column, j] = maximum(a, b) if largest else a + b
        width //= 2
    return lanes[column, 0]


@device
def fold_block(lanes, lane, sums, block):
    """Thread k folds column k."""
    cuda.syncthreads()
    if lane < COLUMNS:
        sums[block, lane] = fold_lanes(lanes, lane, lane == LARGEST)


@device
def first_element(t, block, lane):
    return (block - t.first_block) * BLOCK + lane


@device
def end_of_block(t, block):
    return min((block - t.first_block + 1) * BLOCK, t.n)


def gradient_sums(tensors, layouts, sums, scale, kind, zero):
    """Σ(scale·g)² and the counts of each block."""
    lanes = cuda.shared.array((COLUMNS, LANES), np.float64)
    block, lane = cuda.blockIdx.x, cuda.threadIdx.x
    t = tensors[first_tensor(tensors, block)]
    if t.kind != kind:
        return
    clear_lanes(lanes, lane)
    for i in range(first_element(t, block, lane), end_of_block(t, block), LANES):
        sum_gradient(lanes, lane, scaled(t, gradient(t, layouts, i, zero), scale))
    fold_block(lanes, lane, sums, block)


def accumulate(tensors, layouts, overwrite, clear, kind, zero):
    """Adds the gradients to the accumulators."""
    block, lane = cuda.blockIdx.x, cuda.threadIdx.x
    t = tensors[first_tensor(tensors, block)]
    if t.kind != kind:
        return
    for i in range(first_element(t, block, lane), end_of_block(t, block), LANES):
        g = gradient(t, layouts, i, zero) * cast(t.scale, zero)
        at = t.slot[ACCUMULATOR] + i * item_size(t)
        store(at, g if overwrite else load(at, zero) + g)
        if clear:
            clear_gradient(t, layouts, i, zero)


def clear_gradients(tensors, layouts, kind, zero):
    """Zeroes the gradients of one block for each CUDA block."""
    block, lane = cuda.blockIdx.x, cuda.threadIdx.x
    t = tensors[first_tensor(tensors, block)]
    if t.kind != kind:
        return
    for i in range(first_element(t, block, lane), end_of_block(t, block), LANES):
        clear_gradient(t, layouts, i, zero)


@device
def tensor_of_unit(tensors, unit):
    """The last tensor whose units start at or before this one; `unit_norms` is 1 + the number of its first unit."""
    low, high = 0, len(tensors)
    while high - low > 1:
        middle = (low + high) // 2
        if tensors[middle].unit_norms - 1 <= unit:
            low = middle
        else:
            high = middle
    return low


def unit_norms(tensors, layouts, norms, scale, kind, zero):
    """Norms of scale·g and scale·w of one unit for each CUDA block; a unit sums in blocks of its own."""
    lanes = cuda.shared.array((COLUMNS, LANES), np.float64)
    level = cuda.local.array(64, np.float64)
    unit, lane = cuda.blockIdx.x, cuda.threadIdx.x
    t = tensors[tensor_of_unit(tensors, unit)]
    begin = (unit - (t.unit_norms - 1)) * t.unit_length
    if t.kind != kind or begin >= t.n:
        return
    count, end = 0, begin + t.unit_length
    for block in range(begin, end, BLOCK):
        clear_lanes(lanes, lane)
        for i in range(block + lane, min(block + BLOCK, end), LANES):
            g = scaled(t, gradient(t, layouts, i, zero), scale)
            p = scaled(t, weight(t, layouts, i, zero), scale)
            add_product(lanes, GG, lane, g, g)
            add_product(lanes, PP, lane, p, p)
        cuda.syncthreads()
        if lane <= PP:
            push(level, count, fold_lanes(lanes, lane, False))
        cuda.syncthreads()
        count += 1
    if lane <= PP:
        norms[unit, lane] = cuda_driver.square_root(total(level, count))


def exchange(tensors, layouts, addresses, numbers, back, kind, zero):
    """Fetches numbers from these addresses, or puts them back."""
    i = cuda.blockIdx.x * LANES + cuda.threadIdx.x
    if i >= len(numbers):
        return
    if back:
        store(addresses[i], numbers[i])
    else:
        numbers[i] = load(addresses[i], np.float64(0.0))


def make_update(apply: Any, run: Mapping[str, Any]) -> Any:
    """One step around a rule: apply(t, group, scalars, i, g, p, x) updates the states and returns p's change.

    run: by place, what its stages make of g, p or the change of p
    """
    run_gradient, run_before, run_change, run_after, run_copy = (run[place] for place in PLACES)

    @device
    def update_element(t, layouts, group, scalars, factor, stages, lanes, lane, i, zero):
        raw = gradient(t, layouts, i, zero)
        p = before = weight(t, layouts, i, zero)
        if stages & MONITOR:
            sum_gradient(lanes, lane, raw)
            if t.momentum >= 0:
                sum_momentum(lanes, lane, raw, load(t.slot[t.momentum] + i * item_size(t), zero))
        g = scaled(t, raw, factor)
        g = run_gradient(t, group, stages, i, g, p, g)
        p = run_before(t, group, stages, i, g, p, p)
        delta = apply(t, group, scalars, i, g, p, g)
        delta = run_change(t, group, stages, i, g, p, delta)
        moved = p + delta
        if stages & MONITOR:
            lanes[STALLED, lane] += 1 if moved == p and delta != 0 else 0
        p = run_after(t, group, stages, i, g, moved, moved)
        run_copy(t, group, stages, i, g, p, p)
        copy_out(t, i, p)
        if stages & MONITOR:
            sum_update(lanes, lane, before, p, raw)
        store_at(locate(t.p, layouts, t.p_layout, i, item_size(t)), t.p_layout, p)
        if stages & ZERO_GRADS:
            clear_gradient(t, layouts, i, zero)

    def update(tensors, layouts, groups, scalars, unit_scale, scale, stages, sums, kind, zero):
        lanes = cuda.shared.array((COLUMNS, LANES), np.float64)
        block, lane = cuda.blockIdx.x, cuda.threadIdx.x
        t = tensors[first_tensor(tensors, block)]
        if t.kind != kind:
            return
        clear_lanes(lanes, lane)
        for i in range(first_element(t, block, lane), end_of_block(t, block), LANES):
            factor = gradient_factor(t, unit_scale, scale, i)
            update_element(t, layouts, groups[t.group], scalars[t.group], factor, stages, lanes, lane, i, zero)
        if stages & MONITOR:
            fold_block(lanes, lane, sums, block)

    return update


_RECORDS, _GROUPS = from_dtype(TENSOR)[::1], from_dtype(GROUP)[::1]
_WORDS, _DOUBLES, _TABLE = types.int64[:, ::1], types.float64[::1], types.float64[:, ::1]


def signature(name: str, dtype: Any) -> Any:
    """The argument types of a kernel for tensors of one dtype."""
    x = from_dtype(dtype)
    step = (_GROUPS, x[:, ::1], _DOUBLES, types.float64, types.int64)
    between = {
        "gradient_sums": (_TABLE, types.float64),
        "accumulate": (types.boolean, types.boolean),
        "clear_gradients": (),
        "unit_norms": (_TABLE, types.float64),
        "exchange": (types.int64[::1], _DOUBLES, types.boolean),
        "measure": step,
        "update": (*step, _TABLE),
    }
    return types.void(_RECORDS, _WORDS, *between[name], types.int64, x)
