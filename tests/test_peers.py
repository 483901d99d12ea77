"""How tests ask for peers (peers.py): what is missing skips or fails, alike for a package and for what is in it."""

from __future__ import annotations

import sys

import peers
import pytest

ASKS = {  # package or submodule; whether CI installs it by the README's command
    "mpi4py": False,
    "mpi4py.MPI": False,
    "torch.distributed.checkpoint": False,
    "safetensors": True,
    "safetensors.numpy": True,
}
by_name = pytest.mark.parametrize("name", ASKS)


@by_name
def test_what_others_install_needs_the_mark(name, monkeypatch):
    monkeypatch.setattr(peers, "running", [])
    if ASKS[name]:
        assert peers.peer(name).__name__ == name
    else:
        with pytest.raises(pytest.fail.Exception, match="needs @pytest"):
            peers.peer(name)


@by_name
@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("ci", ["1", ""])
def test_a_missing_one_fails_where_it_must_be(name, required, ci, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(peers, "REQUIRED", required)
    monkeypatch.setattr(peers, "running", [type("Marked", (), {"get_closest_marker": lambda self, name: True})()])
    monkeypatch.setenv("CI", ci)
    fails = required or (ci and ASKS[name])
    with pytest.raises(pytest.fail.Exception if fails else pytest.skip.Exception, match="is not installed"):
        peers.peer(name)
