"""Rules that train at one point and are judged at another: `eval` and `train`, and the numbers that go on by steps."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import assert_same_bits, by_backend, cases_of, fingerprint, moderate_arrays
from peers import peer
from tolerances import Drift

import fastupdate as fu
from fastupdate import rules

pytest.importorskip("fastupdate.rules.adamwschedulefree", reason="a build of few rules, none with modes")
MODES = [name for name, rule in rules.every().items() if rule.evaluated is not None]
CASES = [case for name in MODES for case in cases_of(name)]
SIZES = [0, 1, 33, 1025]
by_case = pytest.mark.parametrize("case", CASES, ids=str)
by_rule = pytest.mark.parametrize("name", MODES)


def stepped(case: Any, steps: int = 3, **options: Any) -> tuple[list[np.ndarray], Any]:
    params = moderate_arrays(1, SIZES, np.float32)
    opt = case.make(params, **options)
    for k in range(steps):
        opt.step(moderate_arrays(20 + k, SIZES, np.float32))
    return params, opt


@by_case
@by_backend
def test_eval_gives_the_average_and_train_comes_back(case: Any, backend: str) -> None:
    params, opt = stepped(case, 12, backend=backend)
    before, z = [p.copy() for p in params], [z.copy() for z in opt.state["z"]]
    beta = opt.groups[0]["momentum" if "momentum" in opt.groups[0] else "beta1"]
    opt.train()  # as it is
    assert_same_bits(params, before, "params")
    opt.eval()
    opt.eval()
    for x, y, w in zip(params, before, z, strict=True):
        np.testing.assert_allclose(beta * x + (1 - beta) * w, y, rtol=1e-5)
        assert not x.size or np.abs(x - y).max() > 1e-3
    opt.train()
    for p, y in zip(params, before, strict=True):
        np.testing.assert_allclose(p, y, rtol=1e-5)
    assert_same_bits(list(opt.state["z"]), z, "z")


@by_rule
def test_steps_in_the_mode_of_evaluation_raise_and_change_nothing(name: str) -> None:
    _, opt = stepped(cases_of(name)[0])
    grads = moderate_arrays(40, SIZES, np.float32)
    opt.bind(grads)
    opt.step()  # so that the short way is open
    opt.eval()
    before = fingerprint(opt)
    for call in (opt.step, lambda: opt.step(grads), lambda: opt.accumulate(grads), lambda: opt.step(loss_scale=2.0)):
        with pytest.raises(
            ValueError, match=rf"\[{name}\] step: expected the mode of training \(call train\(\) first\)"
        ):
            call()
        assert fingerprint(opt) == before
    opt.train()
    assert opt.step().step == 5


@pytest.mark.parametrize("rule", ["adamw", "prodigy"])
def test_other_rules_have_one_mode(rule: str) -> None:
    _, opt = stepped(cases_of(rule)[0])
    before = fingerprint(opt)
    opt.eval()
    opt.step(moderate_arrays(40, SIZES, np.float32))
    opt.train()
    assert fingerprint(opt) != before


@by_rule
@pytest.mark.parametrize("way", ["state_dict", "file", "pickle", "copy"])
def test_checkpoints_keep_the_mode(name: str, way: str, tmp_path: Path) -> None:
    case = cases_of(name)[0]
    params, opt = stepped(case)
    opt.eval()
    others, other = stepped(case, 1)
    if way == "state_dict":
        other.load_state_dict(opt.state_dict())
        for p, q in zip(others, params, strict=True):
            p[...] = q
    elif way == "file":
        opt.save(tmp_path / "x")
        other.load_state_dict(fu.load(tmp_path / "x"))
    else:
        other = copy.deepcopy(opt) if way == "copy" else pickle.loads(pickle.dumps(opt))
        others = other.params
    with pytest.raises(ValueError, match="mode of training"):
        other.step(moderate_arrays(50, SIZES, np.float32))
    for each in (opt, other):
        each.train()
        each.step(moderate_arrays(50, SIZES, np.float32))
    assert_same_bits(others, params, "params")
    assert "evaluating" not in opt.state_dict()


def test_a_state_of_another_mode_is_refused_by_a_rule_that_has_none() -> None:
    _, opt = stepped(cases_of("adamw")[0])
    with pytest.raises(ValueError, match=r"\[adamw\] state_dict\['evaluating'\]: expected False, received True"):
        opt.load_state_dict({**opt.state_dict(), "evaluating": True})


def test_partitions_turn_as_a_whole() -> None:
    params = {"w": np.ones((3, 3), np.float32), "b": np.ones(3, np.float32)}
    opt = fu.Muon(params, others=fu.AdamWScheduleFree.with_(lr=0.1))
    grads = {"w": np.full((3, 3), 2, np.float32), "b": np.full(3, 2, np.float32)}
    for _ in range(3):
        opt.step(grads)
    before = {name: p.copy() for name, p in params.items()}
    opt.eval()
    with pytest.raises(ValueError, match="mode of training"):
        opt.step(grads)
    assert_same_bits(params["w"], before["w"], "w")
    assert (params["b"] != before["b"]).all()
    opt.train()
    opt.step(grads)


@pytest.mark.parametrize("lr", [[0.0, 0.0, 0.1, 0.3, 0.2, 0.1], [0.5, 0.1, 0.4, 0.6, 0.6, 0.0]])
@pytest.mark.peer
@by_rule
def test_weights_of_steps_follow_a_schedule_as_the_authors_do(name: str, lr: list[float]) -> None:
    torch = peer("torch")
    params = moderate_arrays(1, SIZES, np.float64)
    theirs = [torch.nn.Parameter(torch.tensor(p)) for p in params]
    groups = [{"params": theirs[:2], "weight_decay": 0.3}, {"params": theirs[2:], "weight_decay": 0.1, "lr": 0.05}]
    their = getattr(peer("schedulefree"), rules.get(name).__name__)(groups, lr=0.1)
    ours = [{"params": params[:2], "weight_decay": 0.3}, {"params": params[2:], "weight_decay": 0.1, "lr": 0.05}]
    opt = rules.get(name)(ours, lr=0.1)
    their.train()
    drift = [Drift(p) for p in params]
    for k in range(12):
        opt.groups[0]["lr"] = their.param_groups[0]["lr"] = lr[k % len(lr)]
        grads = moderate_arrays(20 + k, SIZES, np.float64)
        for p, g in zip(theirs, grads, strict=True):
            p.grad = torch.tensor(g)
        their.step()
        opt.step(grads)
        if k % 3 == 2:
            for each in (opt, their):
                each.eval()
            for d, p, q in zip(drift, params, theirs, strict=True):
                d.compare(p, q.detach().numpy())
            for each in (opt, their):
                each.train()
        for d, p, q in zip(drift, params, theirs, strict=True):
            d.compare(p, q.detach().numpy())
    assert max(d.worst for d in drift) <= 24  # x is y beyond z: what rounds differently in y is 1/β as much in x


@pytest.mark.peer
@by_rule
def test_torch_s_face_turns_as_the_optimizer_does(name: str) -> None:
    torch = peer("torch")

    case = cases_of(name)[0]
    params = moderate_arrays(1, SIZES, np.float32)
    theirs = [torch.nn.Parameter(torch.tensor(p)) for p in params]
    opt, other = case.make(params), getattr(fu.torch, rules.get(name).__name__)(theirs, **case.kwargs)
    other.eval()  # before the first step nothing but the mode changes
    other.train()
    for k in range(4):
        grads = moderate_arrays(20 + k, SIZES, np.float32)
        for p, g in zip(theirs, grads, strict=True):
            p.grad = torch.tensor(g)
        opt.step(grads)
        other.step()
    for mode in ("eval", "train"):
        getattr(opt, mode)()
        getattr(other, mode)()
        assert_same_bits([p.detach().numpy() for p in theirs], params, mode)
        if mode == "eval":
            state = other.state_dict()
            with pytest.raises(ValueError, match=rf"\[{name}\] step: expected the mode of training"):
                other.step()
    other.load_state_dict(state)
    with pytest.raises(ValueError, match="mode of training"):
        other.step()
    other.train()
    other.step()
