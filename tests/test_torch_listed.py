"""fastupdate.torch with rules that keep numbers of the whole list, such as Prodigy's d: floats in every group.

Beside arrays, byte for byte; beside the packages of their authors, whose checkpoints are taken and read.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from cases import Case, assert_same_bits, by_dtype
from peers import Module, peer
from tolerances import PEER
from torch_cases import LAYOUTS, LISTED, arrays_of, hand_over, ours, parameters, tensors, torch

import fastupdate as fu
from fastupdate import rules
from fastupdate.torch.listed import names_of
from fastupdate.torch.names import state_names

pytestmark = pytest.mark.peer

by_case = pytest.mark.parametrize("case", LISTED, ids=str)
by_rule = pytest.mark.parametrize("case", list({case.rule: case for case in LISTED}.values()), ids=str)
PRODIGY = Case("prodigy", "", {"weight_decay": 0.03, "d0": 1e-2})

# Beside packages, which sum in other orders, and float32 in float32: relative, of numbers such as d, and of how far a
# tensor has come by them.
BY_SUMS = {np.float32: 3e-5, np.float64: 1e-12}


@pytest.fixture(autouse=True)
def _torch_there() -> None:
    peer("torch")


def downhill(params: list[Any], step: int, scale: float = 1.0) -> list[np.ndarray]:
    """Gradients that agree with each other by half, so that estimates of the distance grow."""
    dtype = params[0].detach().numpy().dtype.type
    pairs = zip(tensors(2, dtype), tensors(10 + step, dtype), strict=True)
    hand_over(params, [(same + other) * scale for same, other in pairs])
    return [p.grad.numpy().copy() for p in params]


def steps(optimizer: Any, params: list[Any], first: int = 0, count: int = 3) -> None:
    for k in range(first, first + count):
        downhill(params, k)
        optimizer.step()


def a_run(case: Case, make: Any = ours, dtype: Any = np.float32, **options: Any) -> tuple[Any, list[Any]]:
    params = parameters(1, dtype)
    optimizer = make(case, params, **options)
    steps(optimizer, params)
    return optimizer, params


def copied(params: list[Any]) -> list[Any]:
    return [torch.nn.Parameter(p.detach().clone()) for p in params]


def told(optimizer: Any) -> dict[str, float]:
    """The numbers, which all groups have alike."""
    first = optimizer.param_groups[0]
    for group in optimizer.param_groups:
        assert {name: group[name] for name in told_names(optimizer)} == {n: first[n] for n in told_names(optimizer)}
    return {name: first[name] for name in told_names(optimizer)}


def told_names(optimizer: Any) -> list[str]:
    return [*names_of(optimizer.rule).values(), "k"]


# -- the same bits as arrays ------------------------------------------------------------------------------------------


@by_case
@by_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("options", [{}, {"clip_norm": 5.0, "ema_decay": 0.9, "lookahead": (2, 0.5)}], ids=["", "more"])
def test_tensors_are_moved_as_arrays_are(case: Case, dtype: Any, layout: str, options: Any) -> None:
    params = parameters(1, dtype, layout)
    arrays = [a.copy() for a in arrays_of(params)]
    optimizer, reference = ours(case, params, **options), case.make(arrays, **options)
    for k in range(4):
        grads = downhill(params, k)
        optimizer.step()
        reference.step(grads)
    assert_same_bits(arrays_of(params), arrays, "parameters")
    rule = optimizer.rule
    for name in rule.states_of("element"):
        found = [optimizer.state[p][state_names(rule)[name]].numpy() for p in params]
        assert_same_bits(found, list(reference.state[name]), name)
    expected = {key: float(reference.state[name][0]) for name, key in names_of(rule).items()}
    assert told(optimizer) == {**expected, "k": 4}
    assert all(type(number) is float for number in [*told(optimizer).values()][:-1])


@by_rule
def test_gradients_come_and_go(case: Case) -> None:
    """Other tensors in each step, one estimate for all."""
    params = parameters(1)
    arrays = [a.copy() for a in arrays_of(params)]
    optimizer, reference = ours(case, params), case.make(arrays, missing="skip")
    for step, absent in enumerate(((0, 3), (1,), (), (0, 3), (5, 6))):
        downhill(params, step)
        grads = [None if k in absent else p.grad for k, p in enumerate(params)]
        hand_over(params, grads)
        optimizer.step()
        reference.step([None if g is None else g.numpy().copy() for g in grads])
    assert_same_bits(arrays_of(params), arrays, "parameters")
    assert told(optimizer) == {
        **{key: float(reference.state[name][0]) for name, key in names_of(optimizer.rule).items()},
        "k": 5,
    }


# -- what is kept -----------------------------------------------------------------------------------------------------

WAYS = {
    "deepcopy": lambda state, path: copy.deepcopy(state),
    "file": lambda state, path: (torch.save(state, path), torch.load(path, weights_only=True))[1],
}


@by_case
@pytest.mark.parametrize("way", WAYS)
def test_a_loaded_run_goes_on_with_the_same_bits(case: Case, way: str, tmp_path: Any) -> None:
    optimizer, params = a_run(case)
    others = copied(params)
    another = ours(case, others)
    another.load_state_dict(WAYS[way](optimizer.state_dict(), tmp_path / "state.pt"))
    assert told(another) == told(optimizer)
    for o, its in ((optimizer, params), (another, others)):
        steps(o, its, 3)
    assert_same_bits(arrays_of(others), arrays_of(params), "parameters")
    assert told(another) == told(optimizer)


@by_rule
@pytest.mark.parametrize(
    "copying", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"]
)
def test_copies_go_on_by_themselves(case: Case, copying: Any) -> None:
    optimizer, params = a_run(case)
    twin, others = copying((optimizer, params))
    for o, its in ((optimizer, params), (twin, others)):
        steps(o, its, 3)
    assert_same_bits(arrays_of(others), arrays_of(params), "parameters")
    assert told(twin) == told(optimizer)


@by_rule
def test_a_number_that_is_set_is_taken(case: Case) -> None:
    optimizer, params = a_run(case)
    arrays = [a.copy() for a in arrays_of(params)]
    reference = case.make(arrays)
    reference.start_at(4)
    for name, key in names_of(optimizer.rule).items():
        optimizer.param_groups[0][key] = value = optimizer.param_groups[0][key] * 1.5 + 0.25
        reference.state[name][0][...] = value
    for name in optimizer.rule.states_of("element"):
        for p, array in zip(params, reference.state[name], strict=True):
            array[...] = optimizer.state[p][state_names(optimizer.rule)[name]].numpy()
    reference.step(downhill(params, 3))
    optimizer.step()
    assert_same_bits(arrays_of(params), arrays, "parameters")
    told(optimizer)


@pytest.mark.parametrize(
    ("value", "error"), [(0.0, ValueError), (float("nan"), ValueError), ("1", TypeError)], ids=["0", "nan", "text"]
)
def test_a_wrong_number_is_named_and_nothing_moves(value: Any, error: Any) -> None:
    optimizer, params = a_run(PRODIGY)
    before = [a.copy() for a in arrays_of(params)]
    optimizer.param_groups[0]["d"] = value
    downhill(params, 3)
    with pytest.raises(error, match=r"\[prodigy\] d: expected a finite number > 0"):
        optimizer.step()
    assert_same_bits(arrays_of(params), before, "parameters")


def test_a_step_that_was_taken_but_not_told_is_told_by_the_next() -> None:
    """As after an interrupt between the two."""
    optimizer, params = a_run(PRODIGY)
    downhill(params, 3)
    optimizer._run.stepper.step(None, 1.0, None)
    twin, others = a_run(PRODIGY)
    steps(twin, others, 3, 1)
    assert optimizer.state_dict()["param_groups"] == twin.state_dict()["param_groups"]


# -- beside the packages of their authors -----------------------------------------------------------------------------

PACKAGES = {
    "prodigy": Module("prodigyopt"),
    "dadaptadam": Module("dadaptation"),
    "dadaptsgd": Module("dadaptation"),
}


def theirs(case: Case, params: list[Any], **options: Any) -> Any:
    name = rules.get(case.rule).__name__
    defaults = {"momentum": 0.9} if name == "DAdaptSGD" else {}
    return getattr(PACKAGES[case.rule], name)(params, **{**defaults, **case.kwargs, **options})


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


def assert_close(params: list[Any], others: list[Any]) -> None:
    """That all have come from `parameters(1)` to the same place, but for the rounding of weights and of sums."""
    dtype = params[0].detach().numpy().dtype.type
    for p, q, start in zip(*map(arrays_of, (params, others, parameters(1, dtype))), strict=True):
        way, largest = (np.abs(a).max(initial=0.0) for a in (q - start, np.maximum(np.abs(q), np.abs(start))))
        assert np.abs(p - q).max(initial=0.0) <= BY_SUMS[dtype] * way + PEER * np.spacing(largest)


class Pair:
    """An optimizer of ours and one of a package's, on parameters of the same values."""

    def __init__(self, case: Case, dtype: Any = np.float32, make: Any = None) -> None:
        self.dtype, self.taken = dtype, 0
        self.params, self.others = parameters(1, dtype), parameters(1, dtype)
        make = make or (lambda build, params: build(case, params))
        self.ours, self.theirs = make(ours, self.params), make(theirs, self.others)

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            for optimizer, params in ((self.ours, self.params), (self.theirs, self.others)):
                steps(optimizer, params, self.taken, 1)
            self.taken += 1
            self.compare()

    def compare(self) -> None:
        assert_close(self.params, self.others)
        for mine, there in zip(self.ours.param_groups, self.theirs.param_groups, strict=True):
            for key in {"d", "d_max", "d_numerator", "numerator_weighted"} & mine.keys():
                assert mine[key] == pytest.approx(float(there[key]), rel=BY_SUMS[self.dtype]), key
            assert mine["k"] == there["k"]


@beside
@by_dtype
def test_beside_the_package(case: Case, dtype: Any) -> None:
    pair = Pair(case, dtype)
    pair.step(12)
    assert pair.ours.param_groups[0]["d"] > 1.5 * case.kwargs["d0"]  # the estimate has grown, or nothing was shown
    if case.rule != "dadaptsgd":  # whose sums there are divided by the first gradient's norm
        entries, others = (o.state_dict()["state"] for o in (pair.ours, pair.theirs))
        for k, other in others.items():
            assert entries[k].keys() == other.keys()
            for name in other.keys() - {"step"}:
                zeros = name == "p0" and not other[name].dim()  # one zero stands for zeros there
                assert zeros or entries[k][name].shape == other[name].shape, name
            assert entries[k]["step"] == other["step"]
    missing = pair.theirs.param_groups[0].keys() - pair.ours.param_groups[0].keys()
    assert missing <= {"d_denom", "d_hat", "g0_norm"}  # which tell of the last step, or stand as `shrink`


@beside
@by_dtype
@pytest.mark.parametrize("order", ["from the package", "to the package"])
def test_a_run_changes_hands(case: Case, dtype: Any, order: str) -> None:
    """Beside a run all of the package's, one that changes from or to it in the middle."""
    if case.rule == "dadaptsgd" and order == "to the package":
        pytest.skip("its state there is another one: sums divided by the first gradient's norm, and the point itself")
    first, second = (theirs, ours) if order == "from the package" else (ours, theirs)
    (optimizer, params), (reference, others) = a_run(case, first, dtype), a_run(case, theirs, dtype)
    after = second(case, params)
    after.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(after, params, 3, 9)
    steps(reference, others, 3, 9)
    assert_close(params, others)
    assert after.param_groups[0]["d"] == pytest.approx(reference.param_groups[0]["d"], rel=BY_SUMS[dtype])
    assert after.param_groups[0]["k"] == 12


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
    optimizer, _ = a_run(Case("dog", "", {}))
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0]["init_buffer"] = [torch.ones(2)]
    with pytest.raises(ValueError, match=r"\[dog\] state_dict\['param_groups'\].*'init_buffer'\]: expected none"):
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


# -- in the hands of others -------------------------------------------------------------------------------------------


@by_rule
def test_a_grad_scaler_scales_and_skips(case: Case) -> None:
    params, others = parameters(1), parameters(1)
    optimizer, reference = ours(case, params), ours(case, others)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=100)
    for seed in range(5):
        scaler.scale(torch.ones(()))
        downhill(params, seed, scaler.get_scale())
        if seed == 2:
            params[4].grad[0, 0, 0, 0] = float("inf")
        else:
            steps(reference, others, seed, 1)
        before = told(optimizer)
        scaler.step(optimizer)
        scaler.update()
        assert (told(optimizer) == before) == (seed == 2)
    assert_same_bits(arrays_of(params), arrays_of(others), "parameters")
    assert told(optimizer) == told(reference)
    assert told(optimizer)["k"] == 4


def test_a_skipped_step_leaves_the_estimate() -> None:
    optimizer, params = a_run(PRODIGY, nonfinite="skip")
    before = told(optimizer)
    downhill(params, 3)
    params[1].grad[0, 0] = float("nan")
    optimizer.step()
    assert optimizer.report.skipped
    assert told(optimizer) == before


def test_states_are_there_before_the_first_step_if_they_are_looked_for() -> None:
    """As torch.distributed.checkpoint does it: by a step with lr and gradients of zero."""
    params = parameters(1)
    before = [a.copy() for a in arrays_of(params)]
    optimizer = ours(PRODIGY, params, lr=0.0)
    hand_over(params, [torch.zeros_like(p) for p in params])
    optimizer.step()
    assert sorted(optimizer.state[params[0]]) == ["exp_avg", "exp_avg_sq", "p0", "s", "step"]
    assert told(optimizer)["k"] == 0
    assert_same_bits(arrays_of(params), before, "parameters")


REFUSED = {
    "beta3": (0.99, r"\[prodigy\] beta3: expected None \(the root of beta2\), received 0.99"),
    "decouple": (False, r"\[prodigy\] decouple: expected True \(.*L2 penalty.*\), received False"),
    "growth_rate": (1.02, r"\[prodigy\] growth_rate: expected inf"),
    "fsdp_in_use": (True, r"\[prodigy\] fsdp_in_use: expected False \(.*DTensor\)"),
    "slice_p": (11, r"\[prodigy\] slice_p: expected 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_of_the_package_that_the_rule_has_not_are_refused_by_name(name: str) -> None:
    value, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        fu.torch.Prodigy(parameters(1), **{name: value})


def test_steps_within_backward_are_refused() -> None:
    model = torch.nn.Linear(3, 2)
    with pytest.raises(ValueError, match=r"\[prodigy\] optimizer: expected a rule that moves each tensor by itself"):
        fu.torch.in_backward(model, fu.torch.Prodigy(model.parameters()))
