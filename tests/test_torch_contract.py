"""fastupdate.torch in the hands of others: scalers, hooks, closures, inputs of torch's own tests.

Upstream's test/test_optim.py (torch 2.13, TestOptimRenewed) and its inputs are the model. Of its tests these have
their like here, in test_torch_face.py, test_torch_groups.py, test_torch_modules.py or test_torch_refused.py, over
`optim_db` where that gives inputs:

    errors, forloop_goes_right_direction, param_group_with_lrscheduler_goes_right_direction, param_groups_lr,
    param_groups_weight_decay, tensor_lr, tensor_lr_num_dim, step_is_noop_when_params_have_no_grad,
    step_is_noop_for_zero_grads, optimizer_can_be_printed, state_dict_deterministic, can_load_older_state_dict,
    can_load_from_to_named_state_dict, save_load_equality_with_weights_only, non_empty_state,
    deepcopy_copies_all_public_attrs, step_pre_hook, step_post_hook, step_all_hooks, state_dict_pre_hook,
    state_dict_post_hook, load_state_dict_pre_hook, load_state_dict_post_hook, grad_scaling_autocast_fused_optimizers

Left out: rosenbrock_sparse, complex, complex_2d, capturable, differentiable (refused, which is tested); foreach_* and
fused_* that compare torch's implementations with each other (there is one here); *_cuda_*, *multigpu, peak_memory
(CPU only); optim_infos_*, defaults_changed_to_foreach (about torch's own classes); cpu_load_state_dict of other dtypes
(dtypes are kept); the words of messages (they name rule and argument).
"""

from __future__ import annotations

import copy
import warnings
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from cases import Case, assert_same_bits, exactly
from interrupts import outcomes
from peers import file_needs, peer
from torch_cases import TORCHS, arrays_of, by_rule, default_dtype, hand_over, parameters, tensors, torch
from torch_pairs import Pair

import fastupdate as fu
from fastupdate import rules

pytestmark = pytest.mark.peer
file_needs("torch")


@pytest.fixture(autouse=True)
def _torch_there() -> None:
    peer("torch")


# -- gradients that are not there -------------------------------------------------------------------------------------

ABSENT = {
    "always": [(0, 3), (0, 3), (0, 3)],
    "at first": [(0, 3), (0,), ()],
    "later": [(), (4,), (4, 5)],
    "by turns": [(0, 1), (4, 5), (0, 1), (4, 5), ()],
    "all": [tuple(range(8)), (), tuple(range(8)), ()],
}


@by_rule
@pytest.mark.parametrize("absent", ABSENT.values(), ids=ABSENT)
def test_a_parameter_without_gradient_is_left_alone_and_not_counted(case: Case, absent: Any) -> None:
    if case.rule not in TORCHS:
        pytest.skip("torch has no such rule")
    pair = Pair(case)
    for seed, leave_out in enumerate(absent):
        pair.step(seed, leave_out)
    for p, q in zip(pair.params, pair.others, strict=True):
        there = pair.theirs.state[q]
        assert (p in pair.ours.state) == (bool(there) and there.get("step", 1) > 0)  # Adagrad makes states in advance
        if p in pair.ours.state and "step" in there:
            assert pair.ours.state[p]["step"] == there["step"]


def test_a_step_without_any_gradient_does_nothing() -> None:
    params = parameters(1)
    optimizer = fu.torch.AdamW(params)
    before = copy.deepcopy(params)
    optimizer.step()
    assert_same_bits(arrays_of(params), arrays_of(before), "parameters")
    assert optimizer.report is None
    assert not optimizer.state_dict()["state"]


# -- closures, hooks, scalers -----------------------------------------------------------------------------------------


def test_a_closure_is_called_with_gradients_on_and_its_loss_returned() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = fu.torch.SGD(model.parameters(), lr=0.1)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = model(torch.ones(4, 3)).square().mean()
        loss.backward()
        return loss

    with torch.no_grad():
        losses = [optimizer.step(closure).item() for _ in range(5)]
    assert losses == sorted(losses, reverse=True)
    assert optimizer.step() is None


def test_hooks_are_called_in_order() -> None:
    params, called = parameters(1), []
    optimizer = fu.torch.AdamW(params)
    module = import_module("torch.optim.optimizer")
    pre = module.register_optimizer_step_pre_hook(lambda *_: called.append("every pre"))
    post = module.register_optimizer_step_post_hook(lambda *_: called.append("every post"))
    optimizer.register_step_pre_hook(lambda *_: called.append("pre"))
    optimizer.register_step_post_hook(lambda *_: called.append("post"))
    optimizer.register_state_dict_pre_hook(lambda _: called.append("saving"))
    optimizer.register_state_dict_post_hook(lambda _, state: called.append("saved"))
    optimizer.register_load_state_dict_pre_hook(lambda _, state: called.append("loading"))
    optimizer.register_load_state_dict_post_hook(lambda _: called.append("loaded"))
    hand_over(params, tensors(2))
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    pre.remove()
    post.remove()
    assert called == ["every pre", "pre", "post", "every post", "saving", "saved", "loading", "loaded"]


def test_hooks_are_called_once_of_a_step_that_a_subclass_has_written_over() -> None:
    class Own(fu.torch.AdamW):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    params, called = parameters(1), []
    optimizer = Own(params)
    optimizer.register_step_pre_hook(lambda *_: called.append("pre"))
    optimizer.register_step_post_hook(lambda *_: called.append("post"))
    hand_over(params, tensors(2))
    optimizer.step()
    assert called == ["pre", "post"]


def test_a_hook_may_change_what_a_step_is_given() -> None:
    params, losses = parameters(1), []
    optimizer = fu.torch.AdamW(params)
    optimizer.register_step_pre_hook(lambda _, args, kwargs: ((*args[:1], lambda: 3.0), kwargs))
    optimizer.register_step_post_hook(lambda _, args, kwargs: losses.append(args[1]()))
    assert optimizer.step() == 3.0
    assert losses == [3.0]


def test_a_profiler_sees_the_steps() -> None:
    params = parameters(1)
    optimizer = fu.torch.AdamW(params)
    hand_over(params, tensors(2))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        optimizer.step()
    assert "Optimizer.step#AdamW.step" in {event.key for event in profile.key_averages()}


def test_what_a_loading_hook_puts_in_place_is_what_is_loaded() -> None:
    params = parameters(1)
    optimizer = fu.torch.AdamW(params)
    hand_over(params, tensors(2))
    optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())

    def forget(_: Any, state: Any) -> Any:
        return {**state, "state": {k: v for k, v in state["state"].items() if k}}

    optimizer.register_load_state_dict_pre_hook(forget)
    optimizer.load_state_dict(state)
    assert params[0] not in optimizer.state
    assert params[1] in optimizer.state


@pytest.mark.parametrize("unscaled", [False, True])
def test_a_grad_scaler_scales_and_skips(unscaled: bool) -> None:
    """Beside torch's fused optimizer, whose contract with the scaler this one has."""
    pair = Pair(fused=True) if not unscaled else Pair()
    scalers = [torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=100) for _ in range(2)]
    for seed in range(6):
        grads = tensors(2 + seed)
        if seed in (0, 3):
            grads[4][0, 0, 0, 0] = float("inf")
        for (optimizer, params), scaler in zip(pair.both, scalers, strict=True):
            scaler.scale(torch.ones(()))
            hand_over(params, [g * scaler.get_scale() for g in grads])
            if unscaled:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        pair.compare()
    assert scalers[0].get_scale() == scalers[1].get_scale() == 2.0
    assert pair.ours.state[pair.params[0]]["step"] == 4 == pair.theirs.state[pair.others[0]]["step"]


# -- torch's own inputs -----------------------------------------------------------------------------------------------


def inputs_of(name: str) -> list[dict[str, Any]]:
    """The hyperparameters that torch tries its optimizer of this name with, but for those that are refused here."""
    peer("expecttest")  # which torch's own test inputs import
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_optimizers import optim_db
    info = next(info for info in optim_db if info.optim_cls is getattr(torch.optim, name))
    given = [one.kwargs for one in info.optim_inputs_func(device="cpu", dtype=torch.float64)]
    return [kwargs for kwargs in given if not (kwargs.get("capturable") or kwargs.get("differentiable"))]


def descent(module: Any, name: str, way: str, given: dict[str, Any]) -> tuple[list[Any], list[float]]:
    """Twenty steps of a small regression by a module's optimizer: parameters and losses."""
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in ((10, 5), (10,), (5,))]
    weight, bias = map(torch.nn.Parameter, draw[:2])
    groups = [{"params": [weight]}, {"params": [bias], "lr": 0.01}] if way == "groups" else [weight, bias]
    optimizer = getattr(module, name)(groups, **copy.deepcopy(given))
    schedulers = [torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.9)] if way == "scheduler" else []

    def closure() -> Any:
        optimizer.zero_grad()
        loss = (weight.mv(draw[2]) + bias).square().sum()
        loss.backward()
        return loss

    losses = []
    for _ in range(20):
        losses.append(optimizer.step(closure).item())
        for scheduler in schedulers:
            scheduler.step()
    assert repr(optimizer).startswith(name)
    return [weight, bias], losses


@pytest.mark.parametrize("name", [fu.rules.get(name).__name__ for name in TORCHS])
@pytest.mark.parametrize("way", ["parameters", "groups", "scheduler"])
def test_torchs_inputs_lead_where_they_lead_torch(name: str, way: str) -> None:
    if name == "ASGD" and way == "scheduler":
        pytest.skip("torch's ASGD takes a new learning rate one step later")
    for given in inputs_of(name):
        with default_dtype("float64"):
            params, losses = descent(fu.torch, name, way, given)
            others, _ = descent(torch.optim, name, way, given)
        if given.get("lr") != 0:
            assert (losses[-1] > losses[0]) == bool(given.get("maximize")), given
        for p, q in zip(params, others, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11, msg=lambda text, given=given: f"{given}: {text}")


def test_torchs_wrong_inputs_are_wrong_here() -> None:
    """The kinds of its errors, without the words; `fused` and `foreach` are not at odds here."""
    peer("expecttest")
    from torch.testing._internal.common_optimizers import OptimizerErrorEnum, optim_db

    refused = set()
    for info in optim_db:
        if info.optim_cls.__name__.lower() not in TORCHS:
            continue
        for wrong in info.optim_error_inputs_func(device="cpu", dtype=torch.float32):
            given = wrong.optimizer_error_input
            tensor = any(isinstance(value, torch.Tensor) for value in given.kwargs.values())
            if wrong.error_on is not OptimizerErrorEnum.CONSTRUCTION_ERROR or given.kwargs.get("foreach") or tensor:
                continue
            with pytest.raises((wrong.error_type, ValueError, TypeError)):
                getattr(fu.torch, info.optim_cls.__name__)(given.params, **given.kwargs)
            refused.add(info.optim_cls.__name__.lower())
    assert refused == {*TORCHS}


# -- interrupts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.5, "ema_decay": 0.9}], ids=["plain", "options"])
@pytest.mark.parametrize("first", [True, False], ids=["first step", "second step"])
def test_an_interrupted_step_is_taken_or_not(options: dict[str, Any], first: bool) -> None:
    def make() -> Any:
        params = [torch.nn.Parameter(torch.full((3, 2), 0.5)), torch.nn.Parameter(torch.ones(4))]
        optimizer = fu.torch.AdamW(params, lr=0.1, **options)
        for _ in range(0 if first else 1):
            again(optimizer)
        hand_over(params, [torch.full((3, 2), 0.3), torch.full((4,), -0.2)])
        return optimizer

    def look(optimizer: Any) -> Any:
        """What a run depends on; a state that is all at its start is none."""
        kept = [named for _, p in sorted(optimizer.state_dict()["state"].items()) for named in sorted(p.items())]
        moved = any(t.any() for name, t in kept if name != "ema")
        params = [p.detach() for p in optimizer.param_groups[0]["params"]]
        return exactly([*params, *([t for _, t in kept] if moved else [])])

    def again(optimizer: Any) -> None:
        hand_over(optimizer.param_groups[0]["params"], [torch.full((3, 2), 0.1), torch.full((4,), 0.7)])
        optimizer.step()

    assert list(outcomes(make, lambda optimizer: optimizer.step(), look, again, of_each=2)) == []


def test_a_step_that_was_taken_but_not_counted_is_counted_by_the_next() -> None:
    """As after an interrupt between the two."""
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = fu.torch.AdamW([p])
    p.grad = torch.ones(3)
    optimizer.step()
    optimizer._run.stepper.step(None, 1.0, None)
    optimizer.step()
    assert optimizer.state[p]["step"] == 3


@pytest.mark.parametrize("rule", rules.names())
def test_every_rule_steps_with_its_defaults(rule):
    """With the bytes that it has on arrays, by torch's defaults."""
    arrays = [np.linspace(-1, 2, n, dtype=np.float32).reshape(shape) for n, shape in ((35, (7, 5)), (15, (5, 3)))]
    params = [torch.nn.Parameter(torch.from_numpy(a.copy())) for a in arrays]
    make = getattr(fu.torch, rules.get(rule).__name__)
    defaults = {k: v for k, v in fu.torch.names.DEFAULTS.get(rule, {}).items() if rule not in fu.torch.names.SPACINGS}
    optimizer, same = make(params), rules.get(rule)(arrays, **defaults)
    for k in range(3):
        grads = [np.cos(p + k) for p in arrays]
        for p, g in zip(params, grads, strict=True):
            p.grad = torch.from_numpy(g.copy())
        optimizer.step()
        same.step(grads)
    assert_same_bits([p.detach().numpy() for p in params], arrays, rule)
