"""Partitions: several rules as one optimizer, in one step that is taken wholly or not at all."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from cases import arrays_of, assert_same_bits, by_backend, exactly, fingerprint
from device_arrays import FakeArray
from interrupts import outcomes
from partitions import RULE_OF, RULES, flat, partition, prints, tree
from peers import peer

import fastupdate as fu
from fastupdate.arrays import device

# ---- what it computes -----------------------------------------------------------------------------------------------


@by_backend
@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.9, "clip_value": 0.5, "l1": 1e-3}, {"lookahead": (2, 0.5)}])
def test_each_rule_does_what_it_does_alone(backend, options):
    params = tree(1)
    opt = partition(params, backend=backend, groups=[{"params": "*.b", "weight_decay": 0.5}], **options)
    own = [{k: v.copy() for k, v in flat(params).items() if RULE_OF[k] == rule} for rule in ("SGD", "Lamb", "AdamW")]
    alone = [rule(p, backend=backend, **options) for (_, rule), p in zip(RULES, own, strict=True)]
    alone[2].groups[0]["weight_decay"] = 0.5
    for k in range(6):
        grads = tree(10 + k)
        opt.step(grads)
        for single, p in zip(alone, own, strict=True):
            single.step({name: flat(grads)[name] for name in p})
    for part, single in zip(opt.parts, alone, strict=True):
        for kind, arrays in arrays_of(single).items():
            assert_same_bits(arrays_of(part)[kind], arrays, kind)
    assert opt.step_count == 6


@pytest.mark.parametrize("reduce", [None, "mean"])
def test_one_norm_of_all_gradients_clips_every_rule(reduce):
    params = tree(1, np.float64)
    rules = [("embed", fu.SGD.with_(lr=0.1)), ("*", fu.SGD.with_(lr=0.2))]
    opt = partition(params, rules, clip_norm=0.5)
    before = copy.deepcopy(flat(params))
    grads = tree(2, np.float64)
    norm = np.sqrt(sum((g**2).sum() for g in flat(grads).values()))
    given = fu_map(lambda g: np.stack([g, g]), grads) if reduce else fu_map(lambda g: 4 * g, grads)
    report = opt.step(given, reduce=reduce, loss_scale=1.0 if reduce else 4.0)
    np.testing.assert_allclose([report.grad_norm, report.clip_factor], [norm, 0.5 / (norm + 1e-6)], rtol=1e-12)
    for name, p in flat(params).items():
        lr = 0.1 if name == "embed" else 0.2
        np.testing.assert_allclose(p - before[name], -lr * report.clip_factor * flat(grads)[name], rtol=1e-9)


def fu_map(f, x):
    if isinstance(x, dict):
        return {k: fu_map(f, v) for k, v in x.items()}
    return [fu_map(f, v) for v in x] if isinstance(x, list) else f(x)


def test_flat_lists_bound_gradients_and_micro_batches_end_alike():
    ends = []
    for way in ("step", "bind", "accumulate", "pairs"):
        values = [v.copy() for v in flat(tree(1)).values()]
        params = [(f"p{k}", v) for k, v in enumerate(values)] if way == "pairs" else values
        rules = [(["p0", "p1"] if way == "pairs" else ["0", "1"], fu.SGD.with_(lr=0.1)), ("*", fu.AdamW)]
        opt = partition(params, rules, clip_norm=1.0)
        grads = list(flat(tree(2)).values())
        if way == "bind":
            opt.bind(grads)
        for _ in range(3):
            if way == "accumulate":
                opt.accumulate(grads)
                opt.accumulate(grads, weight=0.5)
            opt.step({f"p{k}": g for k, g in enumerate(grads)} if way == "pairs" else grads if way == "step" else None)
        ends.append(values)
    for k, end in enumerate(ends[1:3]):
        for p, q in zip(end, ends[0], strict=True):
            np.testing.assert_allclose(p, q, rtol=1e-6, err_msg=str(k))
    assert_same_bits(ends[3], ends[0], "pairs")


# ---- a step is whole or not at all ----------------------------------------------------------------------------------


@by_backend
@pytest.mark.parametrize("where", RULE_OF)
def test_what_one_rule_leaves_out_all_of_them_do(backend, where):
    params = tree(1)
    opt = partition(params, backend=backend, nonfinite="skip", max_skips=1, zero_grads=True)
    opt.step(tree(2))
    bad = tree(3)
    flat(bad)[where].flat[0] = np.nan
    before = prints(opt)
    report = opt.step(bad)
    assert (report.skipped, report.nonfinite, report.step) == (True, 1, 1)
    assert prints(opt) == before
    assert not any(g.any() for g in flat(bad).values())  # they are zeroed all the same
    bad = tree(3)
    flat(bad)[where].flat[0] = np.nan
    with pytest.raises(FloatingPointError, match="after 1 skipped steps"):
        opt.step(bad)
    assert prints(opt) == before
    assert not opt.step(tree(4)).skipped


@pytest.mark.parametrize("where", RULE_OF)
def test_an_error_in_one_rule_leaves_all_as_they_were(where):
    opt = partition(tree(1), nonfinite="raise", clip_norm=1.0)
    opt.step(tree(2))
    before = prints(opt)
    wrong, bad = tree(3), tree(3)
    name = where.rpartition(".")
    owner = wrong if where == "embed" else wrong["layers"][int(name[0][-1])]
    owner[name[2]] = owner[name[2]][:-1]
    with pytest.raises(ValueError, match=rf"grads\['{where.split('.')[0]}'\].*: expected shape"):
        opt.step(wrong)
    with pytest.raises(ValueError, match=r"grads"):
        opt.accumulate(wrong)
    flat(bad)[where].flat[0] = np.inf
    with pytest.raises(FloatingPointError, match="expected finite values"):
        opt.step(bad)
    assert prints(opt) == before
    opt.group(where)["lr"] = lambda step: -1.0
    with pytest.raises(ValueError, match="lr: expected"):
        opt.step(tree(3))
    opt.group(where)["lr"] = 0.1
    assert [fingerprint(part) for part in opt.parts if where not in part.groups[0]["params"]] == [
        f for f, part in zip(before, opt.parts, strict=True) if where not in part.groups[0]["params"]
    ]


def test_outliers_are_judged_by_all_gradients():
    opt = partition(tree(1), outliers=(4, 20))
    for k in range(12):
        assert not opt.step(tree(20 + k)).skipped
    before, far = prints(opt), tree(40)
    far["embed"] *= 1e4
    assert "grad_norm" in opt.step(far).reason
    assert prints(opt) == before


def lent(opt):
    with opt.ema_weights():
        assert_same_bits(opt.params["embed"], opt.ema["embed"], "embed")


def other_state():
    opt = partition(tree(5), ema_decay=0.5)
    opt.step(tree(6))
    opt.accumulate(tree(7))
    return opt.state_dict()


CALLS = {
    "step": lambda opt: opt.step(tree(9)),
    "accumulate": lambda opt: opt.accumulate(tree(9)),
    "start_at": lambda opt: opt.start_at(7),
    "load_state_dict": lambda opt: opt.load_state_dict(other_state()),
    "ema_weights": lent,
    "state_dict": lambda opt: opt.state_dict(),
}


@pytest.mark.parametrize("call", CALLS)
def test_interrupts_leave_all_rules_before_a_call_or_after_it(call):
    def make():
        opt = partition(tree(1), ema_decay=0.5, nonfinite="skip")
        opt.step(tree(2))
        return opt

    def again(opt):
        opt.step(None if opt.parts[0].stepper.clock[1] else tree(9))

    found = [*outcomes(make, CALLS[call], lambda opt: (exactly(opt.state_dict()), exactly(opt.params)), again)]
    assert not found, "\n".join(found)


def test_start_and_discard():
    opt = partition(tree(1))
    opt.accumulate(tree(2))
    with pytest.raises(ValueError, match="no accumulated micro-batches"):
        opt.start_at(5)
    opt.discard()
    opt.start_at(5)
    assert [opt.step(tree(3)).step, *(part.step_count for part in opt.parts)] == [5, 5, 5, 5]


# ---- matrices and the others ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("others", [fu.AdamW.with_(lr=0.01), fu.AdamW, ("embed", fu.AdamW.with_(lr=0.01))])
def test_muon_leaves_what_is_no_matrix_to_another_rule(others):
    params = tree(1)
    opt = fu.Muon(params, 0.02, momentum=0.9, others=others, clip_norm=1.0, groups=[{"params": "*", "lr_scale": 0.5}])
    assert [type(part).__name__ for part in opt.parts] == ["Muon", "AdamW"]
    own = ["layers.0.w", "layers.1.w"]
    assert [*opt.parts[0].groups[0]["params"]] == (own if isinstance(others, tuple) else ["embed", *own])
    assert (opt.parts[0].lr, opt.parts[0].momentum, opt.parts[1].lr_scale) == (0.02, 0.9, 0.5)
    before = copy.deepcopy(flat(params))
    opt.step(tree(2))
    assert all((p != before[name]).all() for name, p in flat(params).items())


def test_a_rule_of_matrices_for_matrices_alone():
    opt = fu.Muon([np.ones((3, 2))], others=fu.AdamW)
    assert [type(part).__name__ for part in opt.parts] == ["Muon"]
    assert type(fu.Muon([np.ones((3, 2))])) is fu.Muon
    assert "others" in fu.Muon.__doc__


# ---- other arrays ---------------------------------------------------------------------------------------------------


@pytest.mark.peer
def test_parameters_of_torch_hold_their_gradients():
    torch = peer("torch")
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 1))
    opt = fu.Muon(model.named_parameters(), lr=0.02, others=fu.AdamW.with_(lr=0.01), clip_norm=1.0, zero_grads=True)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(torch.ones(2, 4)).square().sum().backward()
    norm = float(torch.cat([p.grad.ravel() for p in model.parameters()]).norm())
    report = opt.step()
    assert report.grad_norm == pytest.approx(norm)
    assert all((p != before[name]).any() for name, p in model.named_parameters())
    assert not any(p.grad.any() for p in model.parameters())


def test_on_a_gpu_rules_step_together_unless_all_gradients_were_to_decide(shim):
    params, expected = {k: FakeArray(v) for k, v in flat(tree(1)).items()}, flat(tree(1))
    opts = partition(params), partition(expected)
    for k in range(3):
        grads = flat(tree(10 + k))
        opts[0].step({name: FakeArray(g) for name, g in grads.items()})
        opts[1].step(grads)
    for part, other in zip(*(opt.parts for opt in opts), strict=True):
        for kind, arrays in arrays_of(other).items():
            assert_same_bits([np.array(device.on_host(a)) for a in arrays_of(part)[kind]], arrays, kind)
    for options in ({"clip_norm": 1.0}, {"nonfinite": "skip"}, {"monitor": True}):
        with pytest.raises(ValueError, match="for parameters on a GPU"):
            partition({k: FakeArray(v) for k, v in flat(tree(1)).items()}, **options)


def test_on_a_gpu_outliers_are_left_out_by_all_rules(shim):
    options = {"outliers": (4, 10), "clip_norm": 3.0}
    params, expected = {k: FakeArray(v) for k, v in flat(tree(1)).items()}, flat(tree(1))
    opts = partition(params, **options), partition(expected, **options)
    for k in range(13):
        grads = {name: (1 + 0.02 * k) * (100 if k == 11 else 1) * g for name, g in flat(tree(10)).items()}
        reports = opts[0].step({name: FakeArray(g) for name, g in grads.items()}), opts[1].step(grads)
        assert repr(reports[0]) == repr(reports[1])
        assert reports[0].skipped == (k == 11)
    for part, other in zip(*(opt.parts for opt in opts), strict=True):
        for kind, arrays in arrays_of(other).items():
            assert_same_bits([np.array(device.on_host(a)) for a in arrays_of(part)[kind]], arrays, kind)


# ---- what is refused ------------------------------------------------------------------------------------------------

SHARED = np.ones((4, 4), np.float32)
WRONG = {
    "none for one": (lambda: partition(tree(1), RULES[:2]), ValueError, r"patterns that match every .* 'layers.0.b'"),
    "nothing left": (lambda: partition(tree(1), [("*", fu.SGD), ("embed", fu.SGD)]), ValueError, "no earlier one does"),
    "no match": (lambda: partition(tree(1), [("x", fu.SGD)]), ValueError, r"rules\[0\]: expected a pattern"),
    "no pair": (lambda: partition(tree(1), [fu.SGD]), TypeError, r"rules\[0\]: expected a pair"),
    "no rule": (lambda: partition(tree(1), [("*", np.ones)]), TypeError, "expected an optimizer class"),
    "made": (lambda: fu.Muon(tree(1), others=fu.SGD([np.ones(2)])), TypeError, r"\[muon\] others: expected an opt"),
    "own clip": (lambda: partition(tree(1), [("*", fu.SGD.with_(clip_norm=1))]), ValueError, "an option of the whole"),
    "unknown": (lambda: partition(tree(1), clipnorm=1), TypeError, "clipnorm: no such option, did you mean clip_norm"),
    "state": (lambda: partition(tree(1), state={}), TypeError, "state: no such option"),
    "group": (lambda: partition(tree(1), groups=[{"params": "*", "beta1": 0.5}]), KeyError, r"\[sgd\] beta1"),
    "groups": (lambda: partition(tree(1), groups=3), TypeError, "groups: expected a sequence of groups"),
    "memory": (
        lambda: partition({"a": SHARED, "b": SHARED[1:]}, [("a", fu.SGD), ("b", fu.AdamW)]),
        ValueError,
        "memory",
    ),
    "names": (
        lambda: partition({"a.b": np.ones(2), "a": {"b": np.ones(2)}}, [("*", fu.SGD)]),
        ValueError,
        "a dotted name of its own",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_makes_no_partition_is_named(wrong):
    make, error, words = WRONG[wrong]
    with pytest.raises(error, match=words):
        make()


def test_gradients_without_a_parameter_and_exchanged_arrays_are_named():
    params = tree(1)
    opt = partition(params)
    with pytest.raises(ValueError, match=r"grads\['more'\]: expected nothing"):
        opt.step({**tree(2), "more": np.ones(2)})
    with pytest.raises(ValueError, match=r"\[lamb\] grads\['layers'\]\[1\]\['w'\]: expected an array"):
        opt.step({**tree(2), "layers": [tree(2)["layers"][0], {"b": tree(2)["layers"][1]["b"]}]})
    params["layers"][0]["b"] = np.ones(5, np.float32)
    with pytest.raises(ValueError, match=r"params\['layers'\]\[0\]\['b'\]: expected the array that"):
        opt.step(tree(2))
