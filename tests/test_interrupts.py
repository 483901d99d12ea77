"""Whatever exception a signal handler raises, and wherever it does: a call has done all of its work or none."""

from __future__ import annotations

import copy
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import exactly, random_arrays
from interrupts import interrupted, outcomes, places
from peers import peer

import fastupdate as fu
from fastupdate import schedules


def params(seed: int = 0) -> dict[str, Any]:
    a, b, c = random_arrays(seed, [6, 4, 3], np.float32)
    return {"w": a.reshape(3, 2).T, "b": b.astype(np.float64), "c": c}


def make() -> fu.Optimizer:
    """An optimizer with all that can be kept, after two steps; "c" is frozen."""
    opt = fu.AdamW(
        params(),
        lr=schedules.plateau(0.1),
        ema_decay=0.5,
        shadow="bfloat16",
        lookahead=(2, 0.5),
        groups=[{"params": "b", "eps": 1e-3}],
    )
    for k in (1, 2):
        opt.step(params(k))
    opt.freeze("c")
    return opt


OTHER: dict[str, Any] = {}


def other_state() -> dict[str, Any]:
    """Another one's state with parameters and accumulated micro-batches, as a file has it."""
    if not OTHER:
        opt = make()
        opt.groups[0]["lr"].update(1.0)
        opt.unfreeze("c")
        opt.step(params(7))
        opt.accumulate(params(8))
        OTHER.update(opt.state_dict())
        OTHER["arrays"].update({f"param.{name}": array.copy() for name, array in opt.stepper.tree.items()})
    return OTHER


def lend(opt: fu.Optimizer) -> None:
    with opt.ema_weights():
        assert all((opt.stepper.tree[name] == opt.ema[name]).all() for name in "wbc")


def set_lr(opt: fu.Optimizer) -> None:
    opt.groups[1]["lr"] = 0.5


def schedule_lr(opt: fu.Optimizer) -> None:
    opt.groups[1]["lr"] = schedules.constant(0.5)


def set_betas(opt: fu.Optimizer) -> None:
    opt.groups[0]["betas"] = (0.5, 0.75)


def set_lr_of_all(opt: fu.Optimizer) -> None:
    opt.lr = 0.25


def set_eps_of_all(opt: fu.Optimizer) -> None:
    opt.eps = 1e-4


def look_around(opt: fu.Optimizer) -> None:
    assert all(x is not None for x in (opt.params, opt.state, opt.ema, opt.slow, opt.shadow, opt.step_count))
    assert all((repr(opt), opt._repr_html_(), opt.groups, opt.lr is not None))


def step(opt: fu.Optimizer) -> None:
    opt.step(None if opt.stepper.clock[1] else params(9))


CALLS: dict[str, Callable[[fu.Optimizer], Any]] = {
    "load_state_dict": lambda opt: opt.load_state_dict(other_state()),
    "load a part": lambda opt: opt.load_state_dict(other_state(), strict=False, rename={"w": "v"}),
    "ema_weights": lend,
    "freeze": lambda opt: opt.freeze("[wb]"),
    "unfreeze": lambda opt: opt.unfreeze("c", state=0.5),
    "reset": lambda opt: opt.unfreeze("c", state="reset"),
    "start_at": lambda opt: opt.start_at(100),
    "resync": lambda opt: opt.resync(),
    "state_dict": lambda opt: opt.state_dict(),
    "deepcopy": copy.deepcopy,
    "set lr": set_lr,
    "schedule lr": schedule_lr,
    "set betas": set_betas,
    "set lr of all": set_lr_of_all,
    "set eps of all": set_eps_of_all,
    "look around": look_around,
    "step": step,
    "accumulate": lambda opt: opt.accumulate(params(5)),
    "bind": lambda opt: opt.bind(params(5)),
}  # fmt: skip
# Calls that need something to have been done before.
PREPARED: dict[str, tuple[Callable[[fu.Optimizer], Any], Callable[[fu.Optimizer], Any]]] = {
    "step accumulated": (lambda opt: opt.accumulate(params(5)), lambda opt: opt.step()),
    "accumulate more": (lambda opt: opt.accumulate(params(5)), lambda opt: opt.accumulate(params(6))),
    "discard": (lambda opt: opt.accumulate(params(5)), lambda opt: opt.discard()),
    "step bound": (lambda opt: opt.bind(params(5)), lambda opt: opt.step()),
    "plateau": (lambda opt: [rate_of(opt).update(1.0) for _ in range(11)], lambda opt: rate_of(opt).update(1.0)),
    "unschedule": (lambda opt: None, lambda opt: setattr(opt, "lr", 0.25)),
}


def rate_of(opt: fu.Optimizer) -> Any:
    return opt.groups[0]["lr"]


def look(opt: fu.Optimizer) -> Any:
    return exactly(opt.state_dict()), exactly(opt.stepper.tree)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_all_or_nothing(call: Callable[[fu.Optimizer], Any]) -> None:
    found = list(outcomes(make, call, look, step))
    assert not found, "\n".join(found)


def make_watchful() -> fu.Optimizer:
    """An optimizer that leaves out outliers and tensors without a gradient, after a step with NaN; "c" rests."""
    opt = fu.Adam(params(), outliers=(4, 10), max_skips=3, nonfinite="skip", missing="skip", monitor=True)
    for k in range(12):
        opt.step({name: np.float32(1 + k % 3) * g for name, g in params(1).items() if name != "c"}, loss=1 + k % 3)
    opt.step({"w": params()["w"] * np.nan}, loss=1.0)
    return opt


def in_turn(opt: fu.Optimizer) -> None:
    opt.step(None if opt.stepper.clock[1] else {"w": params(9)["w"], "c": params(9)["c"]})


WATCHFUL: dict[str, Callable[[fu.Optimizer], Any]] = {
    "an ordinary step": lambda opt: opt.step(params(1), loss=2.0),
    "an outlier": lambda opt: opt.step(params(1), loss=99.0),
    "NaN": lambda opt: opt.step({"b": np.full(4, np.nan)}, loss=1.0),
    "others are missing": lambda opt: opt.step({"c": params(1)["c"]}),
    "a micro-batch": lambda opt: opt.accumulate({"c": params(1)["c"]}, weight=3.0),
    "load_state_dict": lambda opt: opt.load_state_dict(fu.Adam(params(), outliers=(4, 10)).state_dict()),
}


@pytest.mark.parametrize("call", WATCHFUL.values(), ids=WATCHFUL)
def test_policies_and_steps_go_together(call: Callable[[fu.Optimizer], Any]) -> None:
    found = list(outcomes(make_watchful, call, look, in_turn))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("what", PREPARED)
def test_all_or_nothing_after_another_call(what: str) -> None:
    prepare, call = PREPARED[what]

    def made() -> fu.Optimizer:
        opt = make()
        prepare(opt)
        return opt

    found = list(outcomes(made, call, look, step))
    assert not found, "\n".join(found)


def checking(**options: Any) -> Callable[[], fu.Optimizer]:
    return lambda: fu.AdamW(params(), lr=0.1, **options)


def thawing() -> fu.Optimizer:
    opt = fu.AdamW(params(), lr=0.1, groups=[{"params": "b", "frozen_until": 1}])
    step(opt)
    return opt


# What else users call: it leaves things whole, and works the next time.
OTHERS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], Callable[[Any], Any], Callable[[Any], Any]]] = {
    "construct": (params, lambda p: fu.AdamW(p, lr=0.1, ema_decay=0.5), exactly, lambda p: fu.AdamW(p).step(params(1))),
    "functional": (
        params,
        lambda p: fu.functional.sgd(p, params(1), step=1, lr=0.1, clip_norm=1.0),
        exactly,
        lambda p: fu.functional.sgd(p, params(2), step=2, lr=0.1),
    ),
    "step that clips": (checking(clip_norm=0.5, nonfinite="skip", monitor=True), step, look, step),
    "step that skips": (
        checking(nonfinite="skip", max_skips=1),
        lambda opt: opt.step({name: np.full_like(a, np.nan) for name, a in params(1).items()}),
        look,
        step,
    ),
    "step by schedules": (checking(groups=[{"params": "b", "lr": schedules.cosine(0.1, 10)}]), step, look, step),
    "step that thaws": (thawing, step, look, step),
    "loss scale": (
        fu.LossScale,
        lambda scale: scale.update(fu.Report(1, 0.1, nonfinite=3)),
        lambda scale: scale.state_dict(),
        lambda scale: scale.update(fu.Report(1, 0.1, nonfinite=0)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERS)
def test_all_or_nothing_elsewhere(what: str) -> None:
    found = list(outcomes(*OTHERS[what]))
    assert not found, "\n".join(found)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupted_save_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    peer("safetensors")
    path, opt, other = tmp_path / "run", make(), make()
    other.step(params(5))
    whole = []
    for each in (opt, other):
        each.save(path)
        whole.append(path.read_bytes())
    wrong = []
    for spot in places(lambda: other.save(path), 1):
        path.write_bytes(whole[0])
        where = interrupted(lambda: other.save(path), spot)
        if path.read_bytes() not in whole or os.listdir(tmp_path) != ["run"]:
            wrong.append(f"{os.listdir(tmp_path)}: {where}")
        other.save(path)
        assert path.read_bytes() == whole[1]
    assert not wrong, "\n".join(wrong)


FAILED_LOAD = """
import numpy as np, fastupdate as fu

class Rate:
    value, fails = 0.5, True
    def __deepcopy__(self, memo):  # a copy does not tell what the original will do
        copied = Rate()
        copied.fails = False
        return copied
    def __call__(self, step):
        return self.value
    def state_dict(self):
        return {"value": self.value}
    def load_state_dict(self, state):
        self.value = state["value"]
        if self.fails and self.value == 0.25:
            raise OSError("no such rate")

def make():
    w = np.ones(1 << 20, np.float32)  # whose accumulator goes back to the system when it is freed
    rate, other = Rate(), Rate()
    opt = fu.SGD({"v": np.ones(1), "w": w}, lr=rate, groups=[{"params": "w", "lr": other}])
    opt.accumulate({"v": np.ones(1), "w": np.full(1 << 20, 3, np.float32)})
    return w, opt

w, opt = make()
state = make()[1].state_dict()
state["groups"][0]["lr"]["schedule"]["value"] = 1.0
state["groups"][1]["lr"]["schedule"]["value"] = 0.25
try:
    opt.load_state_dict(state)
except OSError:
    assert [group["lr"].value for group in opt.groups] == [0.5, 0.5]
    opt.step()
    assert (w == -0.5).all(), w
else:
    raise AssertionError("loaded")
"""


def test_a_schedule_that_cannot_load_leaves_everything_as_it_was() -> None:
    done = subprocess.run([sys.executable, "-c", FAILED_LOAD], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.peer
def test_autograd_is_told_when_lent_weights_are_given_back() -> None:
    torch = peer("torch")
    within: list[int] = []

    def made() -> tuple[fu.Optimizer, Any]:
        within.clear()
        p = torch.nn.Parameter(torch.ones(3))
        opt = fu.SGD([p], lr=0.5, ema_decay=0.5)
        opt.step([torch.ones(3)])
        return opt, p

    def lend_and_note(opt: fu.Optimizer, p: Any) -> None:
        with opt.ema_weights():
            within.append(p._version)

    wrong = []
    whole = made()
    for spot in places(lambda: lend_and_note(*whole), 8):
        opt, p = made()
        where = interrupted(lambda opt=opt, p=p: lend_and_note(opt, p), spot)
        assert p.tolist() == [0.5] * 3
        if within and p._version == within[0]:
            wrong.append(where)
    assert not wrong


def test_finalizers_of_what_others_left_do_not_run_within_a_traced_call() -> None:
    collects: list[bool] = []

    def call() -> None:
        collects.append(gc.isenabled())
        copy.copy([])

    for spot in places(call, 3):
        assert interrupted(call, spot)
    assert collects == [False] * len(collects)
    assert gc.isenabled()
