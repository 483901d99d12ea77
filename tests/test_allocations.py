"""The n-th allocation of a call fails: an error, or success; nothing is half done, and nothing crashes.

scripts/nightly.py tries every n, and the C library's allocations too (allocations.c); here it is a few of CPython's.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from allocations import CALLS
from cases import isas
from peers import peer

SCRIPT = Path(__file__).with_name("allocations.py")
EVERY = {
    "construct": 127,
    "form": 1,
    "step": 1,
    "functional": 7,
    "load_state_dict": 127,
    "freeze": 127,
    "state_dict": 37,
    "save": 73,
    "load": 23,
}


@pytest.mark.skipif(not isas(), reason="no native module")
@pytest.mark.parametrize("call", CALLS)
def test_the_nth_allocation_fails(call: str) -> None:
    pytest.importorskip("_testcapi", reason="this CPython comes without _testcapi")
    if call in ("save", "load"):
        peer("safetensors")
    command = [sys.executable, str(SCRIPT), "python", call, str(EVERY.get(call, 29))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failed" not in done.stdout, "no allocation failed: nothing was shown"
