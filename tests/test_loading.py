"""States that are not quite those of the optimizer: older, renamed, in another order, with more or with less."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import versions
from cases import exactly, fingerprint
from peers import peer

import fastupdate as fu
from fastupdate.saving import state as saving
from fastupdate.step.options import CLIPS

DATA = Path(__file__).parent / "data"

MEMORY = ("weight", "skips", "outliers", "limits")  # came with version 3

# -- versions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(1, saving.VERSION + 1))
def test_a_file_of_any_version_loads_for_ever(version: int) -> None:
    """If it does not since states have a new entry: raise saving.state.VERSION, and add a file (see also
    tests/test_older_states.py)."""
    peer("safetensors")
    opt, expected = versions.fresh(), versions.make()
    assert opt.load_state_dict(fu.load(DATA / f"version{version}.safetensors")).unexpected_keys == []
    assert exactly([opt.state_dict(), opt.stepper.tree]) == exactly([expected.state_dict(), expected.stepper.tree])
    opt.step()
    expected.step()
    assert exactly([opt.state_dict(), opt.stepper.tree]) == exactly([expected.state_dict(), expected.stepper.tree])


# -- limits that are schedules, skipped steps -------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("file", [False, True], ids=["dict", "file"])
def test_a_plateau_that_limits_norms_resumes(name: str, file: bool, tmp_path: Path) -> None:
    if file:
        peer("safetensors")
    limits = [fu.schedules.plateau(0.5, patience=0, factor=0.5) for _ in range(2)]
    first, second = (fu.Adam(params("a"), **{name: limit}) for limit in limits)
    for metric in (1.0, 2.0, 3.0):
        limits[0].update(metric)
        first.step(params("a"))
    first.save(tmp_path / "x") if file else None
    second.params["a"][...] = first.params["a"]
    loaded = second.load_state_dict(fu.load(tmp_path / "x") if file else first.state_dict())
    assert f"limits.{name}" in loaded.taken
    assert limits[1](0) == limits[0](0) == 0.125
    for limit, opt in zip(limits, (first, second), strict=True):
        limit.update(4.0)
        opt.step(params("a"))
    assert exactly(first.state_dict()) == exactly(second.state_dict())
    bad = first.state_dict()
    bad["limits"][name] = {"schedule": {}}
    with pytest.raises(ValueError, match="state: expected the keys value, best"):
        second.load_state_dict(bad)
    with pytest.raises(ValueError, match=rf"state_dict\['limits.{name}'\]: expected no such entry, received one"):
        fu.Adam(params("a"), **{name: 1.0}).load_state_dict(first.state_dict())
    older_state = {key: value for key, value in first.state_dict().items() if key not in MEMORY} | {"version": 2}
    assert second.load_state_dict(older_state).missing_keys == [f"limits.{name}"]


@pytest.mark.parametrize("pickled", [False, True], ids=["state", "pickle"])
def test_the_count_of_skipped_steps_is_kept(pickled: bool) -> None:
    opt = fu.Adam([np.ones(3)], nonfinite="skip", max_skips=2)
    opt.step([np.full(3, np.inf)])
    other = pickle.loads(pickle.dumps(opt)) if pickled else fu.Adam([np.ones(3)], nonfinite="skip", max_skips=2)
    if not pickled:
        other.load_state_dict(opt.state_dict())
    assert other.step([np.full(3, np.inf)]).skipped
    with pytest.raises(FloatingPointError, match="after 2 skipped steps in a row"):
        other.step([np.full(3, np.inf)])


# -- another order, other names ---------------------------------------------------------------------------------------


def params(*names: str, value: float = 1.0) -> dict[str, np.ndarray]:
    return {name: np.full(3, value + k) for k, name in enumerate(names)}


def trained(*names: str, value: float = 1.0, **options: Any) -> fu.Optimizer:
    opt = fu.Adam(params(*names, value=value), **options)
    opt.step(params(*names, value=value))
    return opt


GROUPS = [{"params": "a", "lr": 0.5}, {"params": "[bc]", "lr": 0.25}]


def test_order_is_of_no_account() -> None:
    opt = trained("a", "b", "c", groups=GROUPS)
    state = opt.state_dict()
    other = fu.Adam(params("c", "b", "a", value=7.0), groups=GROUPS[::-1])
    assert [group["params"] for group in other.groups] == [["c", "b"], ["a"]]
    other.load_state_dict(state)
    assert [group["lr"] for group in other.groups] == [0.25, 0.5]
    assert exactly(other.state_dict()["arrays"]) == exactly(state["arrays"])
    assert [group["params"] for group in other.groups] == [["c", "b"], ["a"]]


RENAMES: dict[str, Any] = {
    "mapping": {"net.a": "a", "net.b": "b"},
    "function": lambda name: name.removeprefix("net."),
}


@pytest.mark.parametrize("rename", RENAMES.values(), ids=RENAMES)
@pytest.mark.parametrize("strict", [True, False])
def test_tensors_may_have_been_named_otherwise(rename: Any, strict: bool) -> None:
    state = trained("net.a", "net.b", value=2.0).state_dict()
    opt = fu.Adam(params("a", "b"))
    loaded = opt.load_state_dict(state, strict=strict, rename=rename)
    assert (loaded.missing_keys, loaded.unexpected_keys) == ([], [])
    assert exactly(opt.state_dict()["arrays"]) == exactly(trained("a", "b", value=2.0).state_dict()["arrays"])


def test_two_tensors_may_change_places() -> None:
    state = trained("a", "b").state_dict()
    opt = fu.Adam(params("a", "b"))
    opt.load_state_dict(state, rename={"a": "b", "b": "a"})
    assert exactly(opt.state["m"]["a"]) == exactly(state["arrays"]["state.m.b"])


WRONG_RENAMES: dict[str, tuple[Any, type[Exception], str]] = {
    "unknown": ({"x": "a"}, ValueError, "expected names of tensors in the state, received 'x'"),
    "twice": (lambda name: "a", ValueError, "expected a name of its own for each tensor, received 'a' for 'a' and 'b'"),
    "no name": (lambda name: None, TypeError, "expected a name for 'a', received None"),
}


@pytest.mark.parametrize(("rename", "error", "message"), WRONG_RENAMES.values(), ids=WRONG_RENAMES)
def test_wrong_names_are_refused(rename: Any, error: type[Exception], message: str) -> None:
    opt = fu.Adam(params("a", "b"))
    before = fingerprint(opt)
    with pytest.raises(error, match=rf"\[adam\] rename: {message}"):
        opt.load_state_dict(trained("a", "b").state_dict(), strict=False, rename=rename)
    assert fingerprint(opt) == before


# -- in part ----------------------------------------------------------------------------------------------------------


def with_params(opt: fu.Optimizer) -> dict[str, Any]:
    """The state as a file has it."""
    state = opt.state_dict()
    state["arrays"] |= {f"param.{item.name}": item.array.copy() for item in opt.stepper.items}
    return state


def test_what_state_and_optimizer_share_is_taken() -> None:
    """A backbone goes over, the old head stays behind, the new one starts afresh."""
    old = trained("backbone", "head", value=2.0)
    opt = trained("backbone", "new", value=5.0)
    fresh = exactly([opt.state["m"]["new"], opt.stepper.tree["new"]])
    loaded = opt.load_state_dict(with_params(old), strict=False)
    kinds = ("state.m", "state.v", "param")
    assert set(loaded.missing_keys) == {f"{kind}.new" for kind in kinds}
    assert set(loaded.unexpected_keys) == {f"{kind}.head" for kind in kinds}
    assert {key for key in loaded.taken if not key.startswith("groups")} == {f"{kind}.backbone" for kind in kinds}
    assert "groups[0].lr" in loaded.taken
    for mine, theirs in ((opt.state["m"], old.state["m"]), (opt.stepper.tree, old.stepper.tree)):
        assert exactly(mine["backbone"]) == exactly(theirs["backbone"])
    assert exactly([opt.state["m"]["new"], opt.stepper.tree["new"]]) == fresh


def test_strictly_the_same_state_is_refused() -> None:
    opt = trained("backbone", "new")
    before = fingerprint(opt)
    with pytest.raises(ValueError, match=r"\['tensors'\]\['new'\]: expected an entry, received none"):
        opt.load_state_dict(with_params(trained("backbone", "head")))
    assert fingerprint(opt) == before


KEPT: dict[str, dict[str, Any]] = {
    "ema": {"ema_decay": 0.5}, "slow": {"lookahead": (5, 0.5)}, "shadow": {"shadow": "float16"},
}  # fmt: skip


@pytest.mark.parametrize("kind", KEPT)
@pytest.mark.parametrize("file", [True, False])
def test_what_a_state_lacks_follows_the_weights(kind: str, file: bool) -> None:
    """An average of the weights that the optimizer was made with would pull loaded ones back."""
    old = trained("a", value=2.0)
    opt = fu.Adam(params("a", value=100.0), **KEPT[kind])
    if not file:
        opt.stepper.tree["a"][:] = old.stepper.tree["a"]
    loaded = opt.load_state_dict(with_params(old) if file else old.state_dict(), strict=False)
    assert f"{kind}.a" in loaded.missing_keys
    assert (getattr(opt, kind)["a"] == opt.stepper.tree["a"].astype(getattr(opt, kind)["a"].dtype)).all()


def test_groups_take_what_the_groups_of_their_tensors_agree_on() -> None:
    state = trained("a", "b", "c", groups=GROUPS, betas=(0.5, 0.75)).state_dict()
    opt = fu.Adam(params("a", "b", "c"), lr=0.125, groups=[{"params": "c", "eps": 1e-3}])
    loaded = opt.load_state_dict(state, strict=False)
    assert [group["params"] for group in opt.groups] == [["a", "b"], ["c"]]
    assert [group["lr"] for group in opt.groups] == [0.125, 0.25]
    assert [group["beta1"] for group in opt.groups] == [0.5, 0.5]
    assert loaded.missing_keys == ["groups[0].lr"]


def test_a_mean_over_some_of_the_tensors_is_no_mean() -> None:
    old = trained("a")
    old.accumulate(params("a"))
    opt = fu.Adam(params("a", "new"))
    loaded = opt.load_state_dict(old.state_dict(), strict=False)
    assert loaded.unexpected_keys == ["accumulator.a"]
    assert opt.step(params("a", "new")).step == 2


STILL_WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "rule": (lambda s: s.update(rule="sgd"), r"\['rule'\]: expected 'adam', received 'sgd'"),
    "shape": (lambda s: s["arrays"].update({"state.m.a": np.ones(4)}), r"\['state.m.a'\]: expected shape \(3,\)"),
    "dtype": (lambda s: s["arrays"].update({"state.m.a": np.ones(3, "f4")}), "expected float64, received float32"),
    "number": (lambda s: s["groups"][0].update(lr=-1.0), r"lr: expected a finite number ≥ 0"),
    "step": (lambda s: s.update(step=-1), r"\['step'\]: expected an integer"),
    "names": (lambda s: s["groups"][0].update(params=None), r"\['params'\]: expected a list of names, received None"),
}


@pytest.mark.parametrize(("change", "message"), STILL_WRONG.values(), ids=STILL_WRONG)
def test_what_is_wrong_is_refused_all_the_same(change: Any, message: str) -> None:
    state = trained("a").state_dict()
    change(state)
    opt = fu.Adam(params("a", "new"))
    before = fingerprint(opt)
    with pytest.raises((ValueError, TypeError), match=message):
        opt.load_state_dict(state, strict=False)
    assert fingerprint(opt) == before


# -- weights from elsewhere -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KEPT)
def test_resync_makes_what_is_kept_follow_the_weights(kind: str) -> None:
    w = np.full(3, 100.0)
    opt = fu.SGD({"w": w}, lr=0.0, **KEPT[kind])
    w[:] = 1.0
    opt.resync()
    for _ in range(5):
        opt.step({"w": np.ones(3)})
    assert (w == 1).all()
    assert (getattr(opt, kind)["w"] == 1).all()


def test_slow_weights_are_public() -> None:
    w = np.ones(3)
    opt = fu.SGD([w], lr=1.0, lookahead=(2, 0.5))
    opt.step([np.ones(3)])
    assert (opt.slow[0] == 1).all()
    opt.step([np.ones(3)])
    assert (opt.slow[0] == 0).all()
    assert (w == 0).all()
    assert fu.SGD([w]).slow is None


def test_steps_beyond_the_last_start_have_a_state() -> None:
    opt = fu.SGD([np.ones(3)], lr=0.5)
    opt.start_at(2**62 - 1)
    for _ in range(3):
        opt.step([np.ones(3)])
    other = fu.SGD([np.ones(3)], lr=0.5)
    other.load_state_dict(opt.state_dict())
    assert other.step([np.ones(3)]).step == 2**62 + 2
