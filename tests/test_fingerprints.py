"""Every byte that an optimizer leaves is what it was when tests/fingerprints.json was written, on every engine."""

from __future__ import annotations

import pytest
from cases import by_engine
from fingerprints import COMBINATIONS, expected, hashes, key

by_combination = pytest.mark.parametrize(("case", "history"), COMBINATIONS, ids=[f"{c}-{h}" for c, h in COMBINATIONS])


@by_engine
@by_combination
def test_bytes(case, history, engine):
    """In float32 and float64. All engines are held to the same hash, so they have the same bytes."""
    row = expected().get(key(case, history))
    assert row, "not in tests/fingerprints.json: `python tests/fingerprints.py --write` adds it"
    assert hashes(case, history, engine) == row, "other bytes than before"


def test_no_fingerprint_is_left_over():
    assert set(expected()) == {key(case, history) for case, history in COMBINATIONS}
