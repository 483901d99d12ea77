"""fastupdate.torch with rules that keep numbers of the whole list, such as Prodigy's d: floats in every group.

Beside arrays, byte for byte; kept, copied and set; what else torch's optimizers do and what is refused.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from cases import Case, assert_same_bits, by_dtype
from peers import file_needs, peer
from torch_cases import LAYOUTS, LISTED, arrays_of, hand_over, ours, parameters, torch
from torch_listed import PRODIGY, a_run, copied, downhill, steps, told

import fastupdate as fu

pytestmark = pytest.mark.peer
file_needs("torch")


@pytest.fixture(autouse=True)
def _torch_there() -> None:
    peer("torch")


by_case = pytest.mark.parametrize("case", LISTED, ids=str)
by_rule = pytest.mark.parametrize("case", list({case.rule: case for case in LISTED}.values()), ids=str)


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
        found = [optimizer.state[p][fu.torch.names.state_names(rule)[name]].numpy() for p in params]
        assert_same_bits(found, list(reference.state[name]), name)
    expected = {key: float(reference.state[name][0]) for name, key in fu.torch.listed.names_of(rule).items()}
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
        **{key: float(reference.state[name][0]) for name, key in fu.torch.listed.names_of(optimizer.rule).items()},
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
    for name, key in fu.torch.listed.names_of(optimizer.rule).items():
        optimizer.param_groups[0][key] = value = optimizer.param_groups[0][key] * 1.5 + 0.25
        reference.state[name][0][...] = value
    for name in optimizer.rule.states_of("element"):
        for p, array in zip(params, reference.state[name], strict=True):
            array[...] = optimizer.state[p][fu.torch.names.state_names(optimizer.rule)[name]].numpy()
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
    "beta3": (1.5, r"\[prodigy\] beta3: expected a number in \[0, 1\), received 1.5"),
    "decouple": (False, r"\[prodigy\] decouple: expected True \(.*decay='coupled'.*\), received False"),
    "growth_rate": (0.9, r"\[prodigy\] growth_rate: expected a number ≥ 1, received 0.9"),
    "fsdp_in_use": (True, r"\[prodigy\] fsdp_in_use: expected False \(.*DTensor\)"),
    "slice_p": (11, r"\[prodigy\] slice_p: expected 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_of_the_package_that_the_rule_has_not_are_refused_by_name(name: str) -> None:
    value, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        fu.torch.Prodigy(parameters(1), **{name: value})


@by_rule
@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.1}], ids=["", "clip_norm"])
def test_within_backward_all_move_when_all_gradients_are_there(case: Case, options: Any) -> None:
    """With the bits of ordinary steps, and no gradient is left, not even where lr is 0 and nothing moves."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    twin = copy.deepcopy(model)
    optimizer, reference = (ours(case, m.parameters(), **options) for m in (model, twin))
    fu.torch.in_backward(model, optimizer)
    for k, lr in enumerate((0.0, 1.0, 1.0, 1.0)):
        x = torch.randn(5, 4, generator=torch.Generator().manual_seed(k))
        for m, o in ((model, optimizer), (twin, reference)):
            o.param_groups[0]["lr"] = lr
            m(x).square().mean().backward()
            o.step()
        assert all(p.grad is None for p in model.parameters())
        reference.zero_grad()
    assert_same_bits(*(arrays_of(m.parameters()) for m in (model, twin)), "parameters")
    assert told(optimizer) == told(reference)
    assert told(optimizer)["k"] == 3
