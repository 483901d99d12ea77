"""Narrow storage types (csrc/core/storage.h), by integers and normal numbers alone."""

from __future__ import annotations

import numpy as np

from fastupdate.engines.python.compiling import compiled


@compiled
def float_bits(x):
    """The bits of a float32, as an int64 ≥ 0."""
    return np.int64(np.float32(x).view(np.uint32))


@compiled
def bits_float(bits):
    """The float32 of the low 32 bits of an int64."""
    return np.uint32(bits).view(np.float32)


@compiled
def from_float16(bits):
    """Exact."""
    x = np.int64(bits)
    sign, a = x & 0x8000, x & 0x7FFF
    if a < 0x0400:
        size = np.float32(a) * np.float32(2.0**-24)
        return -size if sign else size
    return bits_float(sign << 16 | (a << 13) + ((112 if a < 0x7C00 else 224) << 23))


@compiled
def from_bfloat16(bits):
    """Exact."""
    return bits_float(np.int64(bits) << 16)


@compiled
def to_float16(x):
    """Rounds to nearest even, as bits; NaN stays NaN."""
    u = float_bits(x)
    sign, a = (u >> 16) & 0x8000, u & 0x7FFFFFFF
    if a > 0x7F800000:
        return sign | 0x7E00
    if a >= 0x477FF000:
        return sign | 0x7C00
    if a < 0x38800000:
        shift = min(126 - (a >> 23), 31)
        significand = (a & 0x7FFFFF) | 0x800000
        half, kept, rest = (1 << shift) >> 1, significand >> shift, significand & ((1 << shift) - 1)
        return sign | (kept + (1 if rest > half or (rest == half and kept & 1) else 0))
    return sign | ((a - (112 << 23) + 0x0FFF + ((a >> 13) & 1)) >> 13)


@compiled
def to_bfloat16(x):
    """Rounds to nearest even, as bits; NaN stays NaN."""
    u = float_bits(x)
    return (u >> 16) | 0x40 if x != x else (u + 0x7FFF + ((u >> 16) & 1)) >> 16
