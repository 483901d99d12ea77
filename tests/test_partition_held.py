"""What users hold of a partition: states, groups, monitors, averages; frozen tensors."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from cases import assert_same_bits, exactly
from partitions import RULES, flat, partition, prints, tree

import fastupdate as fu


@pytest.mark.parametrize("way", ["state_dict", "file", "pickle", "deepcopy"])
def test_a_run_that_was_saved_in_the_middle_goes_on_with_the_same_bytes(way, tmp_path):
    params = tree(1)
    opt = partition(params, clip_norm=1.0, ema_decay=0.9, shadow="bfloat16")
    for k in range(3):
        opt.step(tree(10 + k))
    opt.accumulate(tree(13))
    if way in ("state_dict", "file"):
        resumed = copy.deepcopy(params) if way == "state_dict" else tree(5)
        other = partition(resumed, clip_norm=1.0, ema_decay=0.9, shadow="bfloat16")
        opt.save(tmp_path / "run")
        other.load_state_dict(opt.state_dict() if way == "state_dict" else fu.load(tmp_path / "run"))
    else:
        other = pickle.loads(pickle.dumps(opt)) if way == "pickle" else copy.deepcopy(opt)
        resumed = other.params
    for each in (opt, other):
        each.step()
        each.step(tree(14))
    assert exactly(other.state_dict()) == exactly(opt.state_dict())
    assert_same_bits(list(flat(resumed).values()), list(flat(params).values()), "params")


def test_a_state_that_is_wrong_for_one_rule_changes_none():
    opt = partition(tree(1))
    opt.step(tree(2))
    state = opt.state_dict()
    state["arrays"]["state.m.layers.1.b"] = np.zeros(9, np.float32)
    before = prints(opt)
    for wrong, words in (
        (state, "expected shape"),
        ({**state, "parts": state["parts"][:2]}, "the states of 3 rules"),
        ({}, "the keys version, parts, arrays"),
    ):
        with pytest.raises(ValueError, match=words):
            opt.load_state_dict(wrong)
    with pytest.raises(ValueError, match="names of tensors in the state, received 'nobody'"):
        opt.load_state_dict(opt.state_dict(), rename={"nobody": "embed"})
    assert prints(opt) == before


def test_renamed_parameters_and_what_was_taken():
    opt = partition(tree(1))
    opt.step(tree(2))
    state = opt.state_dict()
    other = fu.Partition({"table": tree(1)["embed"], "layers": tree(1)["layers"]}, [("table", RULES[0][1]), *RULES[1:]])
    loaded = other.load_state_dict(state, rename={"embed": "table"})
    assert {"state.b.table", "parts[1].groups[0].lr", "parts[2].groups[0].lr"} <= {*loaded.taken}
    assert not loaded.missing_keys
    assert not loaded.unexpected_keys


def test_groups_schedules_and_attributes():
    opt = partition(tree(1), groups=[{"params": "*.0.*", "lr_scale": 0.5}, {"params": ["embed"], "weight_decay": 0.2}])
    assert [(g["params"], g["lr_scale"], g["weight_decay"]) for g in opt.groups] == [
        (["embed"], 1.0, 0.2),
        (["layers.0.w"], 0.5, 0.1),
        (["layers.1.w"], 1.0, 0.1),
        (["layers.0.b"], 0.5, 0.01),
        (["layers.1.b"], 1.0, 0.01),
    ]
    assert opt.group("layers.1.w") is opt.groups[2]
    with pytest.raises(ValueError, match="a pattern that finds tensors of one group"):
        opt.group("*")
    lrs = []
    for k in range(3):
        opt.step(tree(10 + k))
        lrs.append(opt.groups[1].numbers["lr"])
    assert lrs == [fu.schedules.cosine(0.02, steps=9)(k) for k in range(3)]
    assert repr(opt).startswith("Partition of 3 rules\n  SGD\n")


def test_monitors_see_the_tensors_of_all_rules():
    params, before = tree(1), tree(1)
    opt = partition(params, monitor=True)
    monitor = fu.Monitor()
    for k in range(3):
        before = copy.deepcopy(params)
        report = opt.step(tree(10 + k))
        monitor(report, 1.0)
    assert report.tensors["name"].tolist() == ["embed", "layers.0.w", "layers.1.w", "layers.0.b", "layers.1.b"]
    moved = [np.linalg.norm(flat(params)[n] - flat(before)[n]) for n in report.tensors["name"]]
    np.testing.assert_allclose(report.tensors["update_norm"], moved, rtol=1e-4)
    assert len(monitor.tensors) == 15


def test_frozen_tensors_of_any_rule_rest():
    params = tree(1)
    opt = partition(params)
    assert opt.freeze(["embed", "*.b"]) == ["embed", "layers.0.b", "layers.1.b"]
    before = copy.deepcopy(flat(params))
    opt.step(tree(2))
    changed = [name for name, p in flat(params).items() if (p != before[name]).any()]
    assert changed == ["layers.0.w", "layers.1.w"]
    opt.unfreeze("*", state="reset")
    opt.step(tree(2))
    assert all((p != before[name]).all() for name, p in flat(params).items())


def test_averages_and_copies_are_structured_as_the_parameters():
    params = tree(1)
    opt = partition(params, ema_decay=0.5, shadow="float16", lookahead=(2, 0.5))
    opt.step(tree(2))
    weights = copy.deepcopy(params)
    with opt.ema_weights():
        assert_same_bits(list(flat(params).values()), list(flat(opt.ema).values()), "averages")
        assert (params["layers"][1]["b"] != weights["layers"][1]["b"]).all()
    assert_same_bits(list(flat(params).values()), list(flat(weights).values()), "weights")
    assert flat(opt.shadow)["layers.0.b"].dtype == np.float16
    params["embed"][...] = 3
    opt.resync()
    assert (opt.ema["embed"] == 3).all()
    assert (opt.slow["embed"] == 3).all()
    assert partition(tree(1)).ema is None
