"""Rounding, flush-to-zero and denormals: rows 23 and 24 of the fault table."""

from __future__ import annotations

import platform
import textwrap

import numpy as np
import pytest
from cases import by_backend, by_engine
from processes import child

import fastupdate as fu

x86_only = pytest.mark.skipif(platform.machine() != "x86_64", reason="MXCSR and these instruction sets are x86's")


# -- row 23: the floating-point environment ---------------------------------------------------------------------------

MXCSR = """
import ctypes, mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(b"\\x0f\\xae\\x1f\\xc3" + b"\\x0f\\xae\\x17\\xc3")  # stmxcsr [rdi]; ret; ldmxcsr [rdi]; ret
base = ctypes.addressof(ctypes.c_char.from_buffer(page))
store = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_uint32))(base)
load = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_uint32))(base + 4)
def control():
    value = ctypes.c_uint32()
    store(value)
    return value.value & 0xFFC0  # without the exception flags
"""


MODES = {"flush-to-zero": 0x9FC0, "round-to-zero": 0x7F80, "default": 0x1F80}


@x86_only
@by_backend
def test_23_floating_point_environment(backend):
    """Import and steps leave rounding, flush-to-zero and denormals-are-zero as they were.

    NumPy 2.0 warns of such modes when what Numba imports asks it for limits.
    """
    code = f"""
    import warnings
    warnings.filterwarnings("ignore", "The value of the smallest subnormal")
    seen = []
    for mode in {[*MODES.values()]}:
        load(ctypes.c_uint32(mode))
        import fastupdate as fu
        seen.append(control())
        opt = fu.Adam([np.ones(200_000, np.float32)], backend={backend!r}, shadow="float16", clip_norm=1.0)
        for _ in range(2):
            opt.step([np.ones(200_000, np.float32)])
            seen.append(control())
    print(json.dumps(seen))
    """
    assert child(MXCSR + textwrap.dedent(code)) == [mode & 0xFFC0 for mode in MODES.values() for _ in range(3)]


@x86_only
def test_23_what_float32_holds_is_known_whatever_the_mode():
    """An ε that float32 turns into 0 is refused by a process that flushes subnormals too."""
    code = f"""
    load(ctypes.c_uint32({MODES["flush-to-zero"]}))
    import fastupdate as fu
    try:
        fu.Adam([np.ones(4, np.float32)], eps=2.0**-150).step([np.ones(4, np.float32)])
    except ValueError as error:
        print(json.dumps("eps" in str(error)))
    """
    assert child(MXCSR + textwrap.dedent(code))


# -- row 24: denormals ------------------------------------------------------------------------------------------------


@by_engine
def test_24_denormals_are_exact(engine):
    """Multiples of the smallest number, which flushing would make 0. Their cost is the processor's: see bench/."""
    smallest, k = 2.0**-149, np.arange(20_000.0)
    p = np.zeros(len(k), np.float32)
    opt = fu.SGD([p], lr=0.5, momentum=1.0, backend=engine.select())
    opt.state["b"][0][:] = 2 * k * smallest
    for _ in range(3):
        opt.step([np.zeros(len(k), np.float32)])
    np.testing.assert_array_equal(opt.state["b"][0], 2 * k * smallest)
    np.testing.assert_array_equal(p, -3 * k * smallest)
