"""fastupdate.torch on several ranks (gloo): the bits are those of one process that has whole tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
from peers import peer
from ranks import check_all

pytestmark = pytest.mark.peer

MODULES = ("sharded_steps", "sharded_sums", "sharded_saving")


@pytest.mark.parametrize("module", MODULES)
def test_the_same_bits_on_any_number_of_ranks(module: str, tmp_path: Path) -> None:
    peer("torch")
    check_all(module, tmp_path)
