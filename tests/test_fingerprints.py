"""Every byte that an optimizer leaves is what it was when tests/fingerprints.json was written, on every engine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cases import ENGINES, PRODUCT, in_sample
from fingerprints import COMBINATIONS, expected, hashes, key


@pytest.mark.parametrize(
    ("case", "history", "engine"),
    [
        pytest.param(case, history, *engine.values, id=f"{case}-{history}-{engine.id}", marks=engine.marks)
        for case, history in COMBINATIONS
        for engine in ENGINES
        if PRODUCT or in_sample(case) or engine.values[0].backend != "numba"
    ],
)
def test_bytes(case, history, engine):
    """In float32 and float64. All engines are held to the same hash, so they have the same bytes.

    Numba runs the sample of rules here, and all rules in test_parity.py and test_phases.py.
    """
    row = expected().get(key(case, history))
    assert row, "not in tests/fingerprints.json: `python tests/fingerprints.py --write` adds it"
    assert hashes(case, history, engine) == row, "other bytes than before"


def test_bytes_of_what_is_compiled_for_users():
    """The suite has Numba optimise less, which is faster; fully optimised loops leave the same bytes."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n0",
        "-q",
        "-p",
        "no:cacheprovider",
        __file__,
        "-k",
        "numba and stages",
    ]
    full = {**os.environ, "NUMBA_OPT": "3"}
    done = subprocess.run(command, env=full, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout, done.stdout


def test_no_fingerprint_is_left_over():
    assert set(expected()) == {key(case, history) for case, history in COMBINATIONS}
