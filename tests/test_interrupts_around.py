"""An exception at any bytecode of what surrounds optimizers: monitors, files, pickles, slow schedules, replays.

As in test_interrupts.py, a call has done all of its work or none.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cases import exactly, isas, random_arrays
from device_arrays import STREAM, FakeArray
from interrupts import InterruptError, interrupted, outcomes, places
from peers import peer

import fastupdate as fu
from fastupdate import schedules
from fastupdate.arrays import device

forgotten = pytest.mark.filterwarnings(  # files are closed by their last reference
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


def gradients(k: int) -> list[np.ndarray]:
    return random_arrays(k, [6, 3], np.float32)


def stepped() -> fu.Optimizer:
    """With all that a pickle has to bring along."""
    opt = fu.AdamW(gradients(0), lr=schedules.plateau(0.1), ema_decay=0.5, shadow="float16", lookahead=(2, 0.5))
    opt.step(gradients(1))
    opt.accumulate(gradients(2))
    return opt


def look(opt: fu.Optimizer) -> Any:
    return exactly(opt.state_dict()), exactly(opt.params)


def step(opt: fu.Optimizer) -> None:
    opt.step(None if opt.stepper.clock[1] else gradients(9))


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


# -- monitors ---------------------------------------------------------------------------------------------------------


class Watched:
    """A monitor with a file, after nine records; further ones are at hand."""

    def __init__(self, directory: Path, every: int) -> None:
        opt = fu.AdamW(gradients(0), lr=0.1, monitor=True)
        self.reports = [opt.step(gradients(k)) for k in range(12)]
        self.lines, self.taken = directory / "metrics.jsonl", 9
        self.monitor = fu.Monitor(directory, every, tensorboard=False)
        for report in self.reports[:9]:
            self.monitor(report, 1.0 / report.step)

    def log(self) -> None:
        """The next report that there is no record of."""
        self.monitor(self.reports[9], 0.5)

    def look(self) -> Any:
        kept = self.monitor
        memory = {name: exactly(value) for name, value in vars(kept._memory).items()}
        return [repr(table.tolist()) for table in (kept.history, kept.tensors, kept.spread)], str(memory), (
            self.lines.read_text(),
            len(kept._since),
        )  # fmt: skip


@forgotten
@pytest.mark.parametrize("every", [1, 5, 7])
def test_a_record_is_kept_and_written_or_not(every: int, tmp_path: Path) -> None:
    numbers = count()
    found = list(
        outcomes(
            lambda: Watched(tmp_path / str(next(numbers)), every), Watched.log, Watched.look,
            lambda watched: watched.monitor(watched.reports[11], 0.25), of_each=2,
        )
    )  # fmt: skip
    assert not found, "\n".join(found)


@forgotten
def test_a_monitor_that_was_not_made_leaves_no_file_open(tmp_path: Path) -> None:
    fu.Monitor(tmp_path, tensorboard=False).close()
    before = open_files()

    def make() -> None:
        fu.Monitor(tmp_path, tensorboard=False).close()

    for spot in (s for s in places(make, 8) if "fastupdate" in s.code.co_filename):
        interrupted(make, spot)
        assert open_files() <= before, spot
    report = fu.SGD([np.ones(2)], lr=0.1, monitor=True).step([np.ones(2)])
    with fu.Monitor(tmp_path, tensorboard=False) as monitor:
        monitor(report)
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 1


@forgotten
def test_a_full_disk_leaves_the_monitor_as_it_was(tmp_path: Path) -> None:
    watched = Watched(tmp_path, 1)
    before = watched.look()

    class Full:
        def write(self, line: str) -> None:
            raise OSError("no space left")

    whole, watched.monitor._files._lines = watched.monitor._files._lines, Full()
    with pytest.raises(OSError, match="no space"):
        watched.log()
    assert watched.look() == before
    watched.monitor._files._lines = whole
    watched.log()
    assert len(watched.monitor.history) == 10


# -- files, pickles ---------------------------------------------------------------------------------------------------


@pytest.mark.peer
@forgotten
def test_an_interrupted_load_leaves_nothing_open_and_the_next_one_is_whole(tmp_path: Path) -> None:
    peer("safetensors")
    opt, path = stepped(), tmp_path / "run"
    opt.save(path)
    content, state = path.read_bytes(), exactly(fu.load(path))
    before = open_files()
    for spot in places(lambda: fu.load(path), 8):
        where = interrupted(lambda: fu.load(path), spot)
        assert open_files() <= before, where
        assert exactly(fu.load(path)) == state, where
    assert path.read_bytes() == content


def test_an_interrupted_pickle_leaves_the_optimizer_as_it_was() -> None:
    found = list(outcomes(stepped, pickle.dumps, look, step, of_each=2))
    assert not found, "\n".join(found)


def test_an_interrupted_unpickling_leaves_the_process_fit_for_the_next() -> None:
    opt = stepped()
    kept, expected = pickle.dumps(opt), look(opt)
    for spot in places(lambda: pickle.loads(kept), 1):
        where = interrupted(lambda: pickle.loads(kept), spot)
        assert look(pickle.loads(kept)) == expected, where


# -- a schedule of the user's that loads slowly -----------------------------------------------------------------------

interrupts: Iterator[bool] = iter(())  # whether the next part of a load is interrupted


class Slow:
    """A rate whose state is loaded in three parts, between which handlers run."""

    def __init__(self) -> None:
        self.parts = [0.5, 0.5, 0.5]

    def __call__(self, step: int) -> float:
        return self.parts[0]

    def state_dict(self) -> dict[str, Any]:
        return {"parts": list(self.parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for k, part in enumerate(state["parts"]):
            if next(interrupts, False):
                raise InterruptError
            self.parts[k] = part


@pytest.mark.parametrize("times", [1, 3, 4, 19])
def test_a_slow_schedule_that_is_interrupted_again_and_again_is_put_back(times: int) -> None:
    global interrupts  # noqa: PLW0603
    rates = Slow(), Slow()
    opt = fu.SGD({"v": np.ones(2), "w": np.ones(3)}, lr=rates[0], groups=[{"params": "w", "lr": rates[1]}])
    state = opt.state_dict()
    for group in state["groups"]:
        group["lr"]["schedule"]["parts"] = [0.25, 0.25, 0.25]
    interrupts = iter([False] * 4 + [True] * times)  # within the second one, and then whenever it is put back
    with pytest.raises(InterruptError):
        opt.load_state_dict(state)
    assert [rate.parts for rate in rates] == [[0.5] * 3] * 2
    interrupts = iter(())
    opt.load_state_dict(state)
    assert [rate.parts for rate in rates] == [[0.25] * 3] * 2


# -- a device ---------------------------------------------------------------------------------------------------------

ON_DEVICE: dict[str, tuple[dict[str, Any], Callable[[fu.Optimizer], Any]]] = {
    "step": ({}, lambda opt: opt.step(there(gradients(7)))),
    "NaN": ({"nonfinite": "skip"}, lambda opt: opt.step(there([g * np.float32("nan") for g in gradients(7)]))),
    "clipped": ({"nonfinite": "skip", "clip_norm": 0.1}, lambda opt: opt.step(there(gradients(7)))),
    "accumulate": ({}, lambda opt: opt.accumulate(there(gradients(7)))),
}


@pytest.mark.skipif(not isas(), reason="no native module")
def test_replays(shim: ModuleType) -> None:
    """The step is counted and its report is remembered, or neither; nothing is launched here."""

    def make() -> fu.Optimizer:
        opt = fu.AdamW(there(gradients(0)), lr=0.1, nonfinite="skip")
        buffers = there(gradients(1))
        shim.begin_capture(STREAM)
        opt.step(buffers)
        shim.end_capture(STREAM)
        return opt

    def look_there(opt: fu.Optimizer) -> Any:
        return opt.stepper.clock.tolist(), opt.stepper.plan.groups["t"].tolist(), len(opt.stepper.undecided.steps)

    found = list(outcomes(make, fu.Optimizer.before_replay, look_there, fu.Optimizer.before_replay, of_each=4))
    assert not found, "\n".join(found)


def there(arrays: list[np.ndarray]) -> list[FakeArray]:
    return [FakeArray(a) for a in arrays]


@pytest.mark.skipif(not isas(), reason="no native module")
@pytest.mark.usefixtures("shim")
@pytest.mark.parametrize("what", ON_DEVICE)
def test_steps_on_a_device(what: str) -> None:
    options, call = ON_DEVICE[what]

    def make() -> fu.Optimizer:
        opt = fu.AdamW(there(gradients(0)), lr=0.1, **options)
        opt.step(there(gradients(1)))
        return opt

    def look_there(opt: fu.Optimizer) -> Any:
        arrays = [exactly(device.on_host(a)) for item in opt.stepper.items for a, _ in item.arrays()]
        return opt.step_count, int(opt.stepper.clock[1]), arrays

    def again(opt: fu.Optimizer) -> None:
        opt.step(None if opt.stepper.clock[1] else there(gradients(9)))

    found = list(outcomes(make, call, look_there, again))
    assert not found, "\n".join(found)
