"""The benchmarks run, compare what they say they compare, and notice wrong results. No figure is asserted here."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peers import REQUIRED, peer

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # `bench` is no part of the package

from bench import calls, contestants, loops, machine, measuring, options, peers, picture, pipelines, tables, workloads  # noqa: E402
from bench import mpi as bench_mpi  # noqa: E402

TINY = workloads.WORKLOADS["tiny"]

NAMES = {
    "peers": [peer.name for peer in contestants.PEERS],
    "pipeline": [peer.name for _, _, peers in pipelines.RECIPES for peer in peers],
    "options": [option.name for option in options.OPTIONS],
}


@pytest.mark.peer
@pytest.mark.parametrize(
    ("mode", "flags"),
    [("peers", []), ("pipeline", ["--pipeline"]), ("options", ["--options", "--no-matmul"])],
    ids=["peers", "pipeline", "options"],
)
def test_command_runs(mode: str, flags: list[str], tmp_path: Path) -> None:
    written, drawn = tmp_path / "new" / "rows.json", tmp_path / "rows.png"
    sizes = ["--quick", "--threads", "1", "--workloads", "tiny"]
    command = [sys.executable, "-m", "bench.peers", *flags, *sizes, "--json", str(written), "--plot", str(drawn)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert written.exists(), done.stdout + done.stderr
    found = json.loads(written.read_text())
    anybody = bool(found["rows"])  # a pipeline has nobody but torch to be compared with
    assert done.returncode == (0 if anybody else 1), done.stdout + done.stderr
    assert ("Nothing was measured" in done.stdout) == (not anybody)
    assert [line["contestant"] for line in _in_order(found)] == sorted(NAMES[mode])
    assert all(name in done.stdout for name in NAMES[mode])
    assert all(math.isfinite(row["ratio"]) and row["low"] <= row["high"] for row in found["rows"])
    assert all(absent["reason"] for absent in found["absent"])
    if REQUIRED:
        missing = {a["contestant"] for a in found["absent"] if "is not installed" in a["reason"]}
        assert missing <= {contestants.DeepSpeed.name}  # it compiles its kernel for minutes
    assert not anybody or drawn.read_bytes().startswith(b"\x89PNG")


RULES = """
import sys
from bench import peers, rules
from bench.workloads import Workload
for name in ("MATRIX", "SMALL", "SQUARE", "SMALL_MATRICES"):
    setattr(rules, name, Workload(name, name, ((8, 8),) * (3 if name.startswith("SMALL") else 1)))
sys.exit(peers.main(["--rules", "adamw,soap,madgrad", "--quick", "--threads", "1", "--json", sys.argv[1]]))
"""


@pytest.mark.peer
def test_rules_take_turns_with_each_of_their_peers(tmp_path: Path) -> None:
    for package in ("torch", "jax", "optax", "pytorch_optimizer"):
        peer(package)
    command = [sys.executable, "-c", RULES, str(tmp_path / "rules.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()[2:]] == ["AdamW", "SOAP", "MADGRAD"]
    found = {row["rule"]: row for row in json.loads((tmp_path / "rules.json").read_text())["rows"]}
    assert {"torch default", "torch foreach", "optax jit"} <= set(found["adamw"]["peers"])
    assert set(found["soap"]["peers"]) == {"pytorch_optimizer"}
    assert (found["adamw"]["passes"], found["adamw"]["bytes"]) == (1, 28)
    assert all(math.isfinite(p["small"]["value"]) for row in found.values() for p in row["peers"].values())


TIMED = """
import json
from bench import rules
timed = {name: rules.peers_of(name) for name in rules.rules.names()}
print(json.dumps([[name, p.name] for name in timed for p in timed[name] if any(map(callable, p.arguments.values()))]))
"""


@pytest.mark.peer
def test_no_rule_is_timed_by_a_schedule_of_twelve_steps() -> None:
    for package in ("torch", "jax", "optax"):
        peer(package)
    done = subprocess.run([sys.executable, "-c", TIMED], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []


CALLS = [(work, other) for work in calls.WORKS for other in work.others]


@pytest.mark.peer
@pytest.mark.parametrize(("work", "other"), CALLS, ids=[f"{w.recipe}, {w.workload}-{o.name}" for w, o in CALLS])
def test_ways_of_calling_compute_the_same(work: calls.Work, other: type[contestants.Contestant]) -> None:
    reason = other.problem(TINY)
    if reason:
        assert not REQUIRED, reason
        pytest.skip(reason)
    known = workloads.WORKLOADS[work.workload]
    few = workloads.Workload("few", "a few of them", known.shapes[:9], known.fresh)
    ours, theirs = work.ours(few, 1), other(few, 1)
    for contestant in (ours, theirs):
        contestant.before(3)
        for _ in range(3):
            contestant.step()
    assert measuring.difference(ours, theirs) <= other.tolerance
    if work.recipe != "construction":
        assert all(np.abs(a).max() > 0 for a in ours.moved(ours.results()))


@pytest.mark.peer
def test_the_table_of_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calls, "WORKS", [work for work in calls.WORKS if work.workload == "one64"][:2])
    written = tmp_path / "new" / "calls.json"
    assert calls.main(["--quick", "--threads", "1", "--no-matmul", "--json", str(written)]) == 0
    found, printed = json.loads(written.read_text()), capsys.readouterr().out
    assert {row["recipe"] for row in found["rows"]} == {"functional call", "bound step"}
    assert all(row["contestant"] in printed for row in found["rows"])


@pytest.mark.parametrize("begin", ["from bench import peers; peers.main(['--quick'])", "import bench.benchmarks.steps"])
def test_numba_is_not_measured_in_silence(begin: str) -> None:
    """As in a clone whose folder shadows the installation: nothing is compiled there."""
    code = f"import sys; sys.modules['fastupdate._core'] = None; {begin}"
    environment = {name: value for name, value in os.environ.items() if name != "FASTUPDATE_BACKEND"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "import of fastupdate._core halted" in done.stderr
    assert "FASTUPDATE_BACKEND=numba" in done.stderr


@pytest.mark.parametrize(("problem", "asked"), [(None, ""), (None, "numba"), ("lost", "numba")])
def test_what_is_compiled_or_asked_for_is_measured(
    problem: str | None, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTUPDATE_BACKEND", asked)
    machine.require_compiled(problem)


NOTHING = machine.Clock(0.0, 0.0, 0.0, 0.0)
OTHERS = {
    "our own work alone": (machine.Clock(100.0, 150.0, 151.0, 0.0), "other processes took 0.5% of the cores", False),
    "what we have started and has ended": (machine.Clock(10.0, 20.0, 20.0, 0.0), "took 0.0% of the cores", False),
    "a busy neighbour": (machine.Clock(100.0, 100.0, 200.0, 0.0), "other processes took 50.0% of the cores", True),
    "other guests": (machine.Clock(100.0, 100.0, 100.0, 20.0), "other guests 10.0%, in 100 s", True),
}


@pytest.mark.parametrize(("end", "says", "wrong"), OTHERS.values(), ids=OTHERS)
def test_how_busy_the_machine_was_with_other_things(end: machine.Clock, says: str, wrong: bool) -> None:
    text = machine.others(NOTHING, end, cores=2)
    assert says in text
    assert ("wrong" in text) == wrong


def test_a_clock_counts_our_own_work_and_no_waiting() -> None:
    begin = machine.Clock.read()
    while (end := machine.Clock.read()).own < begin.own + 0.05:
        pass
    assert end.now > begin.now
    assert end.all == pytest.approx(begin.all + 0.05, abs=5.0)


def _in_order(found: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted(found["rows"] + found["absent"], key=lambda line: str(line["contestant"]))


@pytest.mark.parametrize(
    ("name", "tensors", "elements"),
    [("gpt2", 148, 124_439_808), ("resnet50", 161, 25_557_032), ("huge", 1, 10**8), ("10kx64", 10_000, 640_000)],
)
def test_workloads_have_the_published_sizes(name: str, tensors: int, elements: int) -> None:
    workload = workloads.WORKLOADS[name]
    assert (len(workload.shapes), workload.elements) == (tensors, elements)


def test_gradients_are_never_zero() -> None:
    assert min(float(np.abs(g).min()) for g in TINY.gradients()) >= 0.001


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("kind", [contestants.Stream, contestants.StreamDivided], ids=lambda kind: kind.name)
def test_stream_visits_every_element_once(kind: type[contestants.Stream], threads: int) -> None:
    why = kind.problem(TINY)
    if why:
        pytest.skip(why)
    stream = kind(TINY, threads)
    stream.step()
    factor = np.float32(contestants.STREAM_FACTOR)
    for g, m, v in zip(stream.grads, *stream.states, strict=True):
        expected = factor / (g + 3) if kind.divides else factor * g
        np.testing.assert_array_equal(m, expected)
        np.testing.assert_array_equal(v, expected)


class TooFar(contestants.Fastupdate):
    """A contestant with a wrong rate."""

    def __init__(self, workload: workloads.Workload, threads: int) -> None:
        super().__init__(workload, threads)
        self.optimizer.groups[0]["lr"] = 1.01 * contestants.LR


@pytest.mark.parametrize(
    ("peer", "agrees"), [(contestants.NumPy, True), (TooFar, False)], ids=["the same rule", "a rate off by 1 %"]
)
def test_results_are_compared(peer: type[contestants.Contestant], agrees: bool) -> None:
    ours, theirs = contestants.Fastupdate(TINY, 1), peer(TINY, 1)
    measuring.take_turns(ours, theirs, measuring.Protocol(threads=1, quick=True, matmul=False, steps=2))
    assert (measuring.difference(ours, theirs) <= peer.tolerance) == agrees


class Unusable(contestants.NumPy):
    """A contestant that is installed but cannot be made."""

    name = "unusable"

    def __init__(self, *_: object) -> None:
        raise RuntimeError("needs a compiler")


def test_who_cannot_be_made_is_listed_with_the_reason() -> None:
    row = peers.compare("AdamW", contestants.Fastupdate, Unusable, TINY, measuring.Protocol(threads=1))
    assert row == tables.Absent("AdamW", "tiny", "unusable", "RuntimeError: needs a compiler")


def test_nobody_to_compare_with_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "PEERS", (Unusable,))
    written, drawn = tmp_path / "rows.json", tmp_path / "rows.png"
    assert peers.main(["--quick", "--workloads", "tiny", "--json", str(written), "--plot", str(drawn)]) == 1
    out = capsys.readouterr().out
    assert "unusable (tiny): RuntimeError: needs a compiler" in out
    assert out.count("Nothing was measured: there was nobody to compare with.") == 1
    assert json.loads(written.read_text())["rows"] == []
    assert not drawn.exists()


def test_ratio_is_that_of_the_medians() -> None:
    ratio = measuring.Pair(np.array([1.0, 1.0, 9.0]), np.array([2.0, 30.0, 2.5]), steps=1).ratio
    assert ratio.value == 2.5
    assert ratio.low <= 2.5 <= ratio.high


def _row(contestant: str, ratio: float, difference: float | None = 0.0) -> tables.Row:
    return tables.Row(
        "AdamW", "tiny", contestant, "", ratio, 1.0, ratio, ratio - 0.01, ratio + 0.01, 3, 1, difference, 1e-3
    )


def test_losses_are_listed() -> None:
    rows = [_row("stream", 0.9, None), _row("swift", 0.8), _row("slow", 1.2)]
    assert "swift, tiny" in tables.losses(rows)
    assert "slow" not in tables.losses(rows)
    assert "stream" not in tables.losses(rows)
    assert "fastupdate: 1.00 s" in tables.table(rows, [])


def _panels(mode: str) -> list[picture.Panel]:
    content = json.loads((ROOT / f"bench/results/{mode}.json").read_text())
    return picture.panels(content["mode"], [tables.Row(**row) for row in content["rows"]])


def test_a_picture_states_the_own_time_of_the_pair_with_the_first_that_computes_the_same() -> None:
    for panel in _panels("peers"):
        assert panel.recipes == 1
        assert panel.own == next(row for row in panel.rows if row.contestant == "torch fused").reference_seconds
    assert {panel.recipes for panel in _panels("pipeline")} == {2}


def test_each_clock_of_a_gpu_has_panels_of_its_own() -> None:
    shown = {panel.title: [row.contestant for row in panel.rows] for panel in _panels("gpu")}
    assert list(shown) == [
        f"{work}: {clock}" for work in ("one tensor of 100 000 000", "ResNet-50") for clock in CLOCKS
    ]
    assert all(len(names) == len(set(names)) for names in shown.values())


CLOCKS = ("GPU time", "wall time")


@pytest.mark.parametrize(
    ("contestant", "ratio", "meaning"),
    [
        (picture.STREAM, 0.9, "moving as many bytes"),
        ("copy", 0.9, "moving as many bytes"),
        ("fastupdate, captured", 1.2, "fastupdate, called in another way"),
        ("torch fused, captured", 0.9, "faster"),
        ("NumPy", 9.0, "slower than fastupdate"),
    ],
)
def test_every_colour_has_one_meaning(contestant: str, ratio: float, meaning: str) -> None:
    assert picture.MEANINGS[picture._colour(_row(contestant, ratio, None))] == meaning


@pytest.mark.parametrize("mode", ["peers", "pipeline", "options"])
def test_pictures_are_drawn_from_what_is_kept(mode: str, tmp_path: Path) -> None:
    """Shown 900 pixels wide on a screen that has twice as many."""
    path = tmp_path / "picture.png"
    assert picture.main([str(ROOT / f"bench/results/{mode}.json"), str(path), "--workloads", "resnet50"]) == 0
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert int.from_bytes(content[16:20], "big") == 1800


@pytest.mark.parametrize(
    ("ratio", "shown"), [(0.62, "0.62×"), (1.044, "1.04×"), (5.6, "5.6×"), (36.23, "36×"), (215.4, "215×")]
)
def test_ratios_in_a_picture(ratio: float, shown: str) -> None:
    assert picture.times(ratio) == shown


def test_the_table_of_loops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It runs; how fast is for whoever runs it."""
    written = tmp_path / "loops.json"
    monkeypatch.setattr("sys.argv", ["loops", "--quick", "--only", "tensor of 64", "--json", str(written)])
    assert loops.main() in (0, 1)
    assert [row["busy"] for row in json.loads(written.read_text())["rows"]] == [False, True]
    assert capsys.readouterr().out.count("one tensor of 64") == 2


@pytest.mark.peer
def test_the_torch_face_is_compared_with_torch(tmp_path: Path) -> None:
    """Every kind of step on small tensors; both compute the same."""
    from bench import torch_face

    written, drawn = tmp_path / "rows.json", tmp_path / "rows.png"
    flags = ["--quick", "--no-matmul", "--threads", "1", "--workloads", "1kx64"]
    command = [sys.executable, "-m", "bench.torch_face", *flags, "--json", str(written), "--plot", str(drawn)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0 or not REQUIRED, done.stdout + done.stderr
    found = json.loads(written.read_text())
    expected = [work.theirs.name for work in torch_face.WORKS if work.workload == "1kx64"]
    assert [line["contestant"] for line in _in_order(found)] == sorted(expected)
    assert not found["rows"] or drawn.read_bytes().startswith(b"\x89PNG")


@pytest.mark.peer
def test_ranks_take_turns_and_tell_what_is_worked_out_on_paper(tmp_path: Path) -> None:
    peer("torch")
    written = tmp_path / "ranks.json"
    command = [sys.executable, "-m", "bench.ranks", "--workload", "tiny", "--ranks", "2", "--rounds", "2"]
    command += ["--models", "GPT-2 124M", "--json", str(written)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(written.read_text())["rows"]
    for contestant in ("fastupdate AdamW", "torch fused AdamW", "fastupdate Adafactor", "fastupdate AdamW, monitor"):
        assert [row["engine"] for row in rows if row["contestant"] == contestant] == ["DDP", "FSDP2"]
    assert {row["contestant"]: row["messages"] for row in rows if row["engine"] == "FSDP2"} == {
        "fastupdate AdamW": 0,
        "torch fused AdamW": 0,
        "fastupdate AdamW, clip_norm": 2,
        "torch fused AdamW, clip_grad_norm_": 0,
        "fastupdate Lamb": 2,
        "fastupdate Adafactor": 3,
        "fastupdate AdamW, monitor": 2,
    }
    assert not any(row["messages"] for row in rows if row["engine"] == "DDP")
    on_paper = [line.split() for line in done.stdout.partition("\nGPT-2 124M\n")[2].splitlines()]
    for ranks in (2, 8, 64, 1024):
        assert f"{ranks} ranks: a rank sends, beside" in done.stdout
        assert len(next(words for words in on_paper if words[:1] == [f"{ranks}"] and words[1] != "ranks:")) == 8


@pytest.mark.peer
def test_steps_over_mpi_take_turns_and_are_worked_out_on_paper() -> None:
    peer("mpi4py")
    command = [sys.executable, "-m", "bench.mpi", "--workload", "tiny", "--ranks", "1", "2", "--rounds", "2"]
    command += ["--models", "GPT-2 124M"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("fu.sharded.AdamW, pieces") == 2
    rows = [row.split() for row in done.stdout.partition("\nGPT-2 124M\n")[2].splitlines()[1:]]
    assert [int(row[0]) for row in rows] == [1, 2, 8, 64, 1024]
    assert rows[0][2] == "0.00"  # nobody to send anything to
    assert [float(row[1]) for row in rows[:2]] == [0.996, 0.498]  # states


def test_models_on_paper_have_the_sizes_of_their_papers() -> None:
    sizes = {name: sum(math.prod(shape) for shape in shapes) for name, shapes in bench_mpi.MODELS.items()}
    assert sizes == {"GPT-2 124M": 124_439_808, "Llama 2 7B": 6_738_415_616, "Llama 2 70B": 68_976_648_192}
