"""The GPU benchmark without a GPU: it says so, its contestants' Python runs on the CPU, and what it prints and draws of
made-up times is right. No figure is asserted here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peers import peer

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # `bench` is no part of the package

from bench import gpu, gpu_contestants  # noqa: E402
from bench.measuring import Pair  # noqa: E402
from bench.tables import Absent, Row  # noqa: E402
from bench.workloads import WORKLOADS  # noqa: E402

TINY = WORKLOADS["tiny"]
NEEDS_A_DEVICE = {  # what a CPU cannot stand in for
    gpu_contestants.OursCaptured, gpu_contestants.OursNumba, gpu_contestants.TorchCaptured,
    gpu_contestants.TorchCompiled, gpu_contestants.CuPy, gpu_contestants.Optax,
}  # fmt: skip
PAIRS = [
    pytest.param(recipe, ours, theirs, id=f"{theirs.name}-{k}")
    for k, (recipe, ours, peers) in enumerate(gpu_contestants.RECIPES)
    for theirs in peers
    if theirs not in NEEDS_A_DEVICE
]


def has_gpu() -> bool:
    return gpu.no_gpu() is None


@pytest.mark.skipif(has_gpu(), reason="there is a GPU here: the benchmark would run for minutes")
def test_says_that_there_is_no_gpu() -> None:
    command = [sys.executable, "-m", "bench.gpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("bench.gpu: nothing was measured: ")
    assert done.stderr.count("\n") == 1


def test_unknown_workloads_are_refused() -> None:
    with pytest.raises(SystemExit, match="--workloads: no abacus; there are huge, "):
        gpu.main(["--workloads", "tiny,abacus"])


def on_cpu(contestant: type[Any]) -> type[Any]:
    return type(contestant.__name__, (contestant,), {"device": "cpu"})


@pytest.mark.peer
@pytest.mark.parametrize(("recipe", "ours", "theirs"), PAIRS)
def test_contestants_agree_on_the_cpu(recipe: str, ours: type[Any], theirs: type[Any]) -> None:
    peer("torch")
    [found] = gpu.compare(recipe, on_cpu(ours), on_cpu(theirs), TINY, {gpu.WALL: gpu.wall_time}, rounds=2)
    assert not isinstance(found, Absent), found
    assert found.agrees, found.difference
    assert (found.difference is None) == (theirs is gpu_contestants.Copy)
    assert found.recipe == f"{recipe}, wall time"


@pytest.mark.peer
def test_optax_agrees_on_the_cpu() -> None:
    peer("torch")
    peer("optax")
    theirs = type("Optax", (gpu_contestants.Optax,), {"platform": "cpu"})
    [found] = gpu.compare("AdamW", on_cpu(gpu_contestants.Ours), theirs, TINY, {gpu.WALL: gpu.wall_time}, rounds=2)
    assert not isinstance(found, Absent), found
    assert found.agrees, found.difference


@pytest.mark.peer
def test_a_peer_that_breaks_is_absent() -> None:
    peer("torch")

    class Broken(gpu_contestants.TorchFused):
        device = "cpu"

        def refill(self) -> None:
            raise RuntimeError("out of order")

    [found] = gpu.compare("AdamW", on_cpu(gpu_contestants.Ours), Broken, TINY, {gpu.WALL: gpu.wall_time}, rounds=2)
    assert found == Absent("AdamW", "tiny", "torch fused", "RuntimeError: out of order")


@pytest.mark.peer
def test_our_own_errors_are_raised() -> None:
    peer("torch")
    ours = type("Ours", (gpu_contestants.Ours,), {"device": "cpu", "options": {"clip_norm": -1.0}})
    with pytest.raises(ValueError, match="clip_norm"):
        gpu.compare("AdamW", ours, on_cpu(gpu_contestants.Copy), TINY, {gpu.WALL: gpu.wall_time}, rounds=1)


def test_nothing_is_begun_after_the_budget() -> None:
    found = list(gpu.measure([TINY], {}, rounds=1, budget=-1.0))
    assert len(found) == sum(len(peers) for _, _, peers in gpu_contestants.RECIPES)
    assert {type(each) for each in found} == {Absent}


def made_up(contestant: type[Any], workload: str, recipe: str, seconds: float, ours: float) -> Any:
    pair = Pair(np.full(5, ours), np.full(5, seconds), steps=1)
    return Row.of(recipe, WORKLOADS[workload], contestant, pair, 0.0 if contestant.comparable else None)


ROWS = [
    made_up(gpu_contestants.Copy, "huge", "AdamW, GPU time", 0.95, 1.0),
    made_up(gpu_contestants.TorchFused, "huge", "AdamW, GPU time", 1.25, 1.0),
    made_up(gpu_contestants.TorchFused, "huge", "AdamW, wall time", 0.5, 1.0),
    made_up(gpu_contestants.TorchFused, "10kx256", "AdamW, GPU time", 1.0, 50e-6),
]


def test_table_goals_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu.report(
        {"GPU": "none"}, ROWS, [Absent("AdamW", "huge", "Apex", "not there")], tmp_path / "a/b.json", tmp_path / "b.png"
    )
    printed = capsys.readouterr().out
    assert "fastupdate: 1.00 s; 0.0028 TB/s of AdamW's own bytes, 95.0% of the copy" in printed
    assert "Apex (huge, AdamW): not there" in printed
    assert "huge, AdamW, GPU time, beside copy: ratio ≥ 0.94: 0.95, 1.00 s: met" in printed
    assert "10kx256, AdamW, GPU time, beside torch fused: fastupdate ≤ 40.0 µs: 20000, 50.0 µs: MISSED" in printed
    assert "resnet50, AdamW, wall time, beside torch fused: ratio ≥ 2: not measured" in printed
    assert "torch fused, huge, AdamW, wall time: 0.50" in printed  # faster than fastupdate
    assert len(json.loads((tmp_path / "a/b.json").read_text())["rows"]) == len(ROWS)
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
