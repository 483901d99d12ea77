"""Rules that keep numbers of the whole list beside the packages of their authors: checkpoints, schedulers, groups."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from cases import Case, assert_same_bits, by_dtype
from peers import file_needs, peer
from torch_cases import arrays_of, ours, parameters, torch
from torch_listed import BY_SUMS, PRODIGY, Pair, a_run, assert_close, copied, downhill, steps, theirs, told

from fastupdate import rules

pytestmark = pytest.mark.peer
file_needs("torch")


@pytest.fixture(autouse=True)
def _torch_there() -> None:
    peer("torch")


# -- beside the packages of their authors -----------------------------------------------------------------------------

ARGUMENTS: dict[str, dict[str, Any]] = {
    "prodigy-plain": {"weight_decay": 0.1, "d0": 1e-3},
    "prodigy-flags": {
        "lr": 0.7, "weight_decay": 0.1, "d0": 1e-3, "d_coef": 2.0, "use_bias_correction": True,
        "safeguard_warmup": True, "betas": (0.85, 0.97),
    },
    "dadaptadam-plain": {"weight_decay": 1e-3, "d0": 1e-3},  # as part of a gradient it must not cancel that
    "dadaptadam-flags": {
        "lr": 0.7, "weight_decay": 0.1, "d0": 1e-3, "use_bias_correction": True, "decouple": True, "betas": (0.85, 0.97)
    },
    "dadaptsgd-plain": {"lr": 0.7, "weight_decay": 0.1, "d0": 1e-3, "momentum": 0.8},
}  # fmt: skip
BESIDE = [Case(*name.split("-"), kwargs) for name, kwargs in ARGUMENTS.items()]
beside = pytest.mark.parametrize("case", BESIDE, ids=str)


@beside
@by_dtype
def test_beside_the_package(case: Case, dtype: Any) -> None:
    pair = Pair(case, dtype)
    pair.step(12)
    assert pair.ours.param_groups[0]["d"] > 1.5 * case.kwargs["d0"]  # the estimate has grown, or nothing was shown
    entries, others = (o.state_dict()["state"] for o in (pair.ours, pair.theirs))
    for k, other in others.items():
        assert entries[k].keys() == {"step", *other}
        for name in other.keys() - {"step"}:
            zeros = name == "p0" and not other[name].dim()  # one zero stands for zeros there
            assert zeros or entries[k][name].shape == other[name].shape, name
        assert entries[k]["step"] == other.get("step", 12)  # DAdaptSGD's are counted in the group alone
    missing = pair.theirs.param_groups[0].keys() - pair.ours.param_groups[0].keys()
    assert missing <= {"d_denom", "d_hat", "g0_norm"}  # which tell of the last step, or are there when it is saved


@beside
@by_dtype
@pytest.mark.parametrize("order", ["from the package", "to the package"])
def test_a_run_changes_hands(case: Case, dtype: Any, order: str) -> None:
    """Beside a run all of the package's, one that changes from or to it in the middle."""
    first, second = (theirs, ours) if order == "from the package" else (ours, theirs)
    (optimizer, params), (reference, others) = a_run(case, first, dtype), a_run(case, theirs, dtype)
    after = second(case, params)
    after.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(after, params, 3, 9)
    steps(reference, others, 3, 9)
    assert_close(params, others)
    assert after.param_groups[0]["d"] == pytest.approx(reference.param_groups[0]["d"], rel=BY_SUMS[dtype])
    assert after.param_groups[0]["k"] == 12


@beside
def test_through_the_package_and_back(case: Case) -> None:
    """What it is given and gives back is nothing but the state: the bits are those of a run unbroken."""
    optimizer, params = a_run(case)
    others = copied(params)
    there, back = theirs(case, others), ours(case, others)
    there.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    back.load_state_dict(copy.deepcopy(there.state_dict()))
    for o, its in ((optimizer, params), (back, others)):
        steps(o, its, 3, 9)
    assert_same_bits(arrays_of(others), arrays_of(params), "parameters")
    assert told(back) == told(optimizer)


@beside
def test_steps_of_the_package_in_between_are_taken_over(case: Case) -> None:
    (optimizer, params), (reference, others) = a_run(case), a_run(case, theirs)
    between, after = theirs(case, params), ours(case, params)
    between.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(between, params, 3, 9)
    after.load_state_dict(copy.deepcopy(between.state_dict()))
    steps(after, params, 12, 6)
    steps(reference, others, 3, 15)
    assert_close(params, others)
    assert {after.state[p]["step"].item() for p in params if p.numel()} == {18}


DOG = {
    "plain": ({"reps_rel": 1e-3}, {"relative": 1e-3}),
    "flags": (
        {"init_eta": 1e-3, "lr": 0.7, "weight_decay": 0.1},
        {"first_rate": 1e-3, "lr": 0.7, "weight_decay": 0.1},
    ),
}


@by_dtype
@pytest.mark.parametrize("arguments", DOG.values(), ids=DOG)
def test_a_run_of_dog_optimizers_goes_on_here(arguments: Any, dtype: Any) -> None:
    given, same = arguments
    optimizer, params = a_run(Case("dog", "", given), lambda case, params: peer("dog").DoG(params, **given), dtype)
    others = copied(params)
    after = ours(Case("dog", "", {}), others)
    after.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert {name: after.param_groups[0][name] for name in same} == same
    steps(optimizer, params, 3, 9)
    steps(after, others, 3, 9)
    assert_close(others, params)
    assert after.param_groups[0]["r"] == pytest.approx(float(optimizer.param_groups[0]["rbar"]), rel=BY_SUMS[dtype])
    assert not {"init_buffer", "rbar", "G", "eta"} & after.param_groups[0].keys()
    after.load_state_dict(peer("dog").DoG(others, **given).state_dict())  # of no step
    assert not after.state
    assert after.param_groups[0]["r"] == 0


@pytest.mark.parametrize("groups", [1, 2])
def test_distances_of_a_part_of_the_parameters_are_refused(groups: int) -> None:
    def make(case: Case, params: list[Any]) -> Any:
        return peer("dog").LDoG(params) if groups == 1 else peer("dog").DoG([{"params": p} for p in params])

    optimizer, params = a_run(Case("dog", "", {}), make)
    expected = "DoG's, one distance of all parameters" if groups == 1 else "one group"
    with pytest.raises(ValueError, match=rf"\[dog\] state_dict\['param_groups'\]: expected {expected}"):
        ours(Case("dog", "", {}), params).load_state_dict(optimizer.state_dict())


OTHER_NAMES = {"decouple": "weight_decouple", "use_bias_correction": "bias_correction"}


@pytest.mark.parametrize("case", [case for case in BESIDE if case.rule != "prodigy"], ids=str)
def test_a_run_of_pytorch_optimizers_goes_on_here(case: Case) -> None:
    made = getattr(peer("pytorch_optimizer"), rules.get(case.rule).__name__)
    arguments = {OTHER_NAMES.get(name, name): value for name, value in case.kwargs.items()}
    optimizer, params = a_run(case, lambda case, params: made(params, **arguments))
    others = copied(params)
    after = ours(case, others, weight_decay=0.0)
    after.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(optimizer, params, 3, 9)
    steps(after, others, 3, 9)
    assert_close(others, params)
    assert after.param_groups[0]["d"] == pytest.approx(optimizer.param_groups[0]["d"], rel=BY_SUMS[np.float32])
    if case.name == "flags":
        assert after.param_groups[0]["decouple"]
        assert after.param_groups[0]["use_bias_correction"]


def test_a_state_that_is_not_ours_to_read_is_refused() -> None:
    optimizer, _ = a_run(Case("dadaptsgd", "", {}))
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0]["fixed_decay"] = True
    with pytest.raises(ValueError, match=r"\[dadaptsgd\] state_dict\['param_groups'\].*'fixed_decay'\]: expected none"):
        optimizer.load_state_dict(state)


# -- groups and schedulers --------------------------------------------------------------------------------------------

SCHEDULERS: dict[str, Any] = {
    "from zero": lambda s, o: s.LambdaLR(o, lambda t: t / 4),  # nothing moves, nor is counted, as long as lr is 0
    "cosine": lambda s, o: s.CosineAnnealingLR(o, 9),
    "warm": lambda s, o: s.SequentialLR(o, [s.ConstantLR(o, 0.1, 2), s.ExponentialLR(o, 0.9)], [2]),
}


@pytest.mark.parametrize("rule", ["prodigy", "dadaptadam"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_drive_it(rule: str, name: str) -> None:
    def two_groups(build: Any, params: list[Any]) -> Any:
        return build(case, [{"params": params[:4]}, {"params": params[4:], "weight_decay": 0.0}])

    case = next(case for case in BESIDE if case.rule == rule)
    pair = Pair(case, np.float64, two_groups)
    schedulers = [SCHEDULERS[name](torch.optim.lr_scheduler, o) for o in (pair.ours, pair.theirs)]
    for _ in range(9):
        pair.step()
        for scheduler in schedulers:
            scheduler.step()
    assert told(pair.ours)["d"] > case.kwargs["d0"]


@pytest.mark.parametrize("rule", ["prodigy", "dadaptadam"])
def test_a_group_rests_whose_lr_is_zero(rule: str) -> None:
    """Its tensors stay, and are in no sum; without decay the package does the same."""

    def two_groups(build: Any, params: list[Any]) -> Any:
        return build(case, [{"params": params[:4], "lr": 0.0}, {"params": params[4:]}], weight_decay=0.0)

    case = next(case for case in BESIDE if case.rule == rule and case.name == "plain")
    pair = Pair(case, np.float64, two_groups)
    before = [a.copy() for a in arrays_of(pair.params[:4])]
    pair.step(5)
    assert_same_bits(arrays_of(pair.params[:4]), before, "parameters that rest")
    for optimizer in (pair.ours, pair.theirs):
        optimizer.param_groups[0]["lr"] = case.kwargs.get("lr", 1.0)
    pair.step(5)


def test_a_group_that_is_added_has_the_estimate_of_all() -> None:
    params = parameters(1)
    optimizer = ours(PRODIGY, params[:5], d0=1e-4)
    for k in range(6):
        downhill(params, k)
        optimizer.step()
        if k == 3:
            optimizer.add_param_group({"params": params[5:], "weight_decay": 0.0})
            d = told(optimizer)["d"]
            assert d > 1e-4
    assert told(optimizer)["d"] > d
    assert told(optimizer)["k"] == 6
    assert all(torch.equal(optimizer.state[p]["step"], torch.tensor(2.0)) for p in params[5:])


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"lr": 0.5}, r"\[prodigy\] param_groups\[1\]\['lr'\]: expected 1.0, as in other groups, or 0"),
        ({"betas": (0.5, 0.9)}, r"\[prodigy\] param_groups\[1\]\['betas'\]: expected \(0.9, 0.999\), as in the first"),
        ({"d0": 1.0}, r"\[prodigy\] param_groups\[1\]\['d0'\]: expected 0.01, as in the first group, received 1.0"),
        ({"slice_p": 2}, r"\[prodigy\] slice_p: expected 1 \(every element takes part\), received 2"),
    ],
    ids=str,
)
def test_groups_that_are_at_odds_are_refused(group: dict[str, Any], message: str) -> None:
    optimizer, params = a_run(
        PRODIGY, lambda case, params: ours(case, [{"params": params[:4]}, {"params": params[4:]}])
    )
    before = [a.copy() for a in arrays_of(params)]
    optimizer.param_groups[1].update(group)
    downhill(params, 3)
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            optimizer.step()
    assert_same_bits(arrays_of(params), before, "parameters")
