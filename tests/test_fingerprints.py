"""Every byte that an optimizer leaves is what it was when tests/fingerprints.json was written, on every engine."""

from __future__ import annotations

import pytest
from cases import DTYPES, ENGINES, NIGHTLY_DTYPES, PRODUCT, in_sample
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

    Numba runs the sample of rules here, each day in float32, and all rules in test_parity.py and test_phases.py.
    """
    row = expected().get(key(case, history))
    assert row, "not in tests/fingerprints.json: `python tests/fingerprints.py --write` adds it"
    dtypes = NIGHTLY_DTYPES if engine.backend == "numba" else DTYPES
    assert hashes(case, history, engine, dtypes) == {t.__name__: row[t.__name__] for t in dtypes}, "other bytes"


def test_no_fingerprint_is_left_over():
    assert set(expected()) == {key(case, history) for case, history in COMBINATIONS}
