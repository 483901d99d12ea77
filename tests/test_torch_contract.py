"""fastupdate.torch in the hands of others: schedulers, scalers, hooks, closures, averages, compilers, bad input.

Upstream's test/test_optim.py (torch 2.13, TestOptimRenewed) and its inputs are the model. Of its tests these have
their like here or in test_torch_face.py, over `optim_db` where that gives inputs:

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
import gc
import warnings
import weakref
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from cases import Case, assert_same_bits, exactly
from interrupts import outcomes
from peers import file_needs, peer
from tolerances import PEER, Drift
from torch_cases import TORCHS, arrays_of, by_rule, default_dtype, hand_over, ours, parameters, tensors, theirs, torch

import fastupdate as fu
from fastupdate import rules

pytestmark = pytest.mark.peer
file_needs("torch")

ADAMW = Case("adamw", "", {"lr": 0.01, "betas": (0.85, 0.97), "eps": 1e-6, "weight_decay": 0.3})


@pytest.fixture(autouse=True)
def _torch_there() -> None:
    peer("torch")


class Pair:
    """An optimizer of ours and one of torch's, on parameters of the same values."""

    def __init__(self, case: Case = ADAMW, make: Any = None, **options: Any) -> None:
        self.params, self.others = parameters(1), parameters(1)
        make = make or (lambda build, params: build(case, params, **options))
        self.ours, self.theirs = make(ours, self.params), make(theirs, self.others)
        self.drifts = [Drift(a) for a in arrays_of(self.others)]

    @property
    def both(self) -> list[tuple[Any, list[Any]]]:
        return [(self.ours, self.params), (self.theirs, self.others)]

    def step(self, seed: int, leave_out: tuple[int, ...] = (), **arguments: Any) -> None:
        grads = [None if k in leave_out else g for k, g in enumerate(tensors(2 + seed))]
        for optimizer, params in self.both:
            hand_over(params, grads)
            optimizer.step(**arguments)
        self.compare()

    def compare(self) -> None:
        for drift, p, q in zip(self.drifts, self.params, self.others, strict=True):
            drift.compare(p.detach().numpy(), q.detach().numpy())
        assert max(drift.worst for drift in self.drifts) <= PEER


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


# -- groups and schedulers --------------------------------------------------------------------------------------------


def _groups(params: list[Any]) -> list[dict[str, Any]]:
    return [{"params": params[:3], "lr": 0.03}, {"params": params[3:5], "weight_decay": 0.0}, {"params": params[5:]}]


SCHEDULERS: dict[str, Any] = {
    "LambdaLR": lambda s, o: s.LambdaLR(o, lambda t: 0.9**t),
    "MultiplicativeLR": lambda s, o: s.MultiplicativeLR(o, lambda t: 0.9),
    "StepLR": lambda s, o: s.StepLR(o, 2),
    "MultiStepLR": lambda s, o: s.MultiStepLR(o, [1, 3]),
    "ConstantLR": lambda s, o: s.ConstantLR(o, 0.5, 2),
    "LinearLR": lambda s, o: s.LinearLR(o, 0.1, 1.0, 4),
    "ExponentialLR": lambda s, o: s.ExponentialLR(o, 0.8),
    "SequentialLR": lambda s, o: s.SequentialLR(o, [s.ConstantLR(o, 0.1, 2), s.ExponentialLR(o, 0.9)], [2]),
    "CosineAnnealingLR": lambda s, o: s.CosineAnnealingLR(o, 6),
    "ChainedScheduler": lambda s, o: s.ChainedScheduler([s.ConstantLR(o, 0.1, 2), s.ExponentialLR(o, 0.9)], o),
    "ReduceLROnPlateau": lambda s, o: s.ReduceLROnPlateau(o, patience=0),
    "CyclicLR": lambda s, o: s.CyclicLR(o, 0.001, 0.1, step_size_up=2, cycle_momentum=True),
    "CosineAnnealingWarmRestarts": lambda s, o: s.CosineAnnealingWarmRestarts(o, 4),
    "OneCycleLR": lambda s, o: s.OneCycleLR(o, 0.1, total_steps=9),
    "PolynomialLR": lambda s, o: s.PolynomialLR(o, 6),
}


def test_every_scheduler_of_torch_is_tried() -> None:
    assert set(torch.optim.lr_scheduler.__all__) - {"LRScheduler"} == SCHEDULERS.keys()


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("rule", ["adamw", "sgd"])
def test_schedulers_drive_a_step(name: str, rule: str) -> None:
    case = ADAMW if rule == "adamw" else Case("sgd", "", {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.03})
    pair = Pair(make=lambda build, params: build(case, _groups(params)))
    module = torch.optim.lr_scheduler
    schedulers = [SCHEDULERS[name](module, optimizer) for optimizer, _ in pair.both]
    for seed in range(6):
        pair.step(seed)
        for scheduler in schedulers:
            scheduler.step(*[1.0] if name == "ReduceLROnPlateau" else [])
    assert [g["lr"] for g in pair.ours.param_groups] == [g["lr"] for g in pair.theirs.param_groups]
    assert pair.ours.param_groups[0]["lr"] != 0.03 or name == "ConstantLR"


@pytest.mark.parametrize("shape", [(), (1,)])
def test_lr_may_be_a_tensor_that_is_filled(shape: Any) -> None:
    pair = Pair(make=lambda build, params: build(ADAMW, params, lr=torch.full(shape, 0.02)))
    for seed in range(3):
        pair.step(seed)
        for optimizer, _ in pair.both:
            optimizer.param_groups[0]["lr"].fill_(0.01 * seed)


def test_a_group_is_added_while_training() -> None:
    pair = Pair(make=lambda build, params: build(ADAMW, params[:5]))
    for seed in range(2):
        pair.step(seed)
    for optimizer, params in pair.both:
        optimizer.add_param_group({"params": params[5:], "lr": 0.05})
    for seed in range(2, 5):
        pair.step(seed)


def test_what_the_step_reads_may_differ_between_groups() -> None:
    """As the groups of fu.AdamW."""
    params = parameters(1)
    arrays = {str(k): a.copy() for k, a in enumerate(arrays_of(params))}
    special = {"l1": 0.01, "clip_value": 0.2, "lr_scale": 0.5, "ema_decay": 0.5, "betas": (0.5, 0.6)}
    optimizer = fu.torch.AdamW([{"params": params[:3]}, {"params": params[3:], **special}], lr=0.1, ema_decay=0.9)
    reference = fu.AdamW(arrays, lr=0.1, ema_decay=0.9, groups=[{"params": ["3", "4", "5", "6", "7"], **special}])
    for step in range(3):
        grads = tensors(2 + step)
        hand_over(params, grads)
        optimizer.step()
        reference.step({str(k): g.numpy() for k, g in enumerate(grads)})
    assert_same_bits(arrays_of(params), list(arrays.values()), "parameters")
    assert_same_bits([optimizer.state[p]["ema"].numpy() for p in params], list(reference.ema.values()), "ema")


def test_named_parameters_name_what_is_wrong() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = fu.torch.AdamW(model.named_parameters())
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]
    model.bias.data = model.bias.data.double()
    with pytest.raises(TypeError, match=r"\[adamw\] params\['bias'\]: expected float32, received float64"):
        optimizer.step()


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


# -- modules ----------------------------------------------------------------------------------------------------------


def _tied() -> Any:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh(), torch.nn.Linear(4, 4))
    model[2].weight = model[0].weight
    return model


def _parametrized() -> Any:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh())
    torch.nn.utils.parametrizations.weight_norm(model[0])
    return model


def _subclassed() -> Any:
    class Own(torch.nn.Parameter):
        pass

    model = torch.nn.Linear(4, 4)
    model.weight = Own(model.weight.detach().clone())
    return model


def _compiled() -> Any:
    return torch.compile(torch.nn.Linear(4, 4), backend="eager")


def _frozen() -> Any:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    model[0].requires_grad_(False)
    return model


MODELS = [_tied, _parametrized, _subclassed, _compiled, _frozen]


@pytest.mark.parametrize("make", MODELS, ids=lambda f: f.__name__[1:])
def test_modules_of_every_kind_train(make: Any) -> None:
    torch.manual_seed(0)
    model = make()
    twin = copy.deepcopy(model)
    optimizer, reference = fu.torch.AdamW(model.parameters(), lr=0.1), torch.optim.AdamW(twin.parameters(), lr=0.1)
    for seed in range(5):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))
        for m, o in ((model, optimizer), (twin, reference)):
            o.zero_grad()
            m(x).square().mean().backward()
            o.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_a_step_can_be_compiled_around() -> None:
    params = parameters(1)
    optimizer = fu.torch.AdamW(params)
    hand_over(params, tensors(2))
    before = params[0].detach().clone()
    torch.compile(optimizer.step, backend="eager")()
    assert not torch.equal(params[0], before)


def test_averages_of_torch_follow() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = fu.torch.SGD(model.parameters(), lr=0.1)
    decay = 0.75
    averaged = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(decay)
    )
    own = fu.torch.SGD((twin := copy.deepcopy(model)).parameters(), lr=0.1, ema_decay=decay)
    averaged.update_parameters(model)
    swa = torch.optim.swa_utils.SWALR(optimizer, swa_lr=0.05, anneal_epochs=2)
    for _ in range(4):
        own.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"]
        for m, o in ((model, optimizer), (twin, own)):
            m(torch.ones(4, 3)).square().mean().backward()
            o.step()
            o.zero_grad()
        averaged.update_parameters(model)
        swa.step()
    for p, q in zip(twin.parameters(), averaged.module.parameters(), strict=True):
        torch.testing.assert_close(own.state[p]["ema"], q.detach())


def test_a_graph_that_saved_a_parameter_notices_the_step() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = fu.torch.SGD([p])
    p.grad = torch.ones(3)
    product = (p * p).sum()
    version = p._version
    optimizer.step()
    assert p._version == version + 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_zero_grad_frees_or_zeroes() -> None:
    params = parameters(1)
    optimizer = fu.torch.AdamW(params)
    hand_over(params, tensors(2))
    optimizer.zero_grad(set_to_none=False)
    assert not any(p.grad.any() for p in params)
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)


def test_nothing_is_kept_of_parameters_that_were_given_up() -> None:
    params = parameters(1)
    optimizer = fu.torch.AdamW(params)
    hand_over(params, tensors(2))
    optimizer.step()
    gone = weakref.ref(params[4])
    del optimizer.param_groups[0]["params"][4], optimizer.state[params[4]], params[4]
    hand_over(params, [g for k, g in enumerate(tensors(3)) if k != 4])
    optimizer.step()
    gc.collect()
    assert gone() is None


# -- what is refused --------------------------------------------------------------------------------------------------


def _one(*shape: int, **kind: Any) -> Any:
    return torch.nn.Parameter(torch.ones(*shape or (2, 2), **kind))


REFUSED: dict[str, Any] = {
    "capturable": (
        lambda: fu.torch.AdamW([_one()], capturable=True),
        ValueError,
        r"\[adamw\] capturable: expected False",
    ),
    "differentiable": (
        lambda: fu.torch.SGD([_one()], differentiable=True),
        ValueError,
        r"\[sgd\] differentiable: expected",
    ),
    "lr": (lambda: fu.torch.AdamW([_one()], lr=-1.0), ValueError, r"\[adamw\] lr: expected .*, received -1"),
    "lr in a group": (
        lambda: fu.torch.AdamW([{"params": [_one()], "lr": -1.0}]),
        ValueError,
        r"\[adamw\] lr: expected",
    ),
    "betas": (lambda: fu.torch.AdamW([_one()], betas=(1.0, 0.9)), ValueError, r"\[adamw\] beta1: expected"),
    "one beta": (lambda: fu.torch.AdamW([_one()], betas=0.9), TypeError, r"\[adamw\] betas: expected 2 numbers"),
    "nesterov": (lambda: fu.torch.SGD([_one()], nesterov=True), ValueError, r"\[sgd\] nesterov: expected momentum > 0"),
    "schedule": (lambda: fu.torch.SGD([_one()], lr=lambda t: 0.1), TypeError, r"\[sgd\] lr: expected a number"),
    "groups": (lambda: fu.torch.SGD([_one()], groups=[]), ValueError, r"\[sgd\] groups: expected parameter groups"),
    "unknown": (lambda: fu.torch.SGD([_one()], clip_nrm=1), TypeError, r"\[sgd\] clip_nrm: no such option"),
    "decoupled": (
        lambda: fu.torch.Adam([_one()], decoupled_weight_decay=True, decay="independent"),
        ValueError,
        r"\[adam\] decay: expected None, for decoupled_weight_decay is True, received 'independent'",
    ),
    "no tensors": (lambda: fu.torch.SGD([]), ValueError, "empty parameter list"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_arguments_are_refused_by_name(name: str) -> None:
    make, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        make()


def _sparse(p: Any) -> Any:
    return torch.eye(2).to_sparse()


def _fake(p: Any) -> Any:
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode().from_tensor(torch.ones(2, 2))


WRONG_TENSORS: dict[str, Any] = {
    "complex": (
        lambda: _one(dtype=torch.complex64),
        None,
        TypeError,
        r"params\[0\]\[0\]: expected float32 or float64, rec",
    ),
    "half": (lambda: _one(dtype=torch.float16), None, TypeError, r"params\[0\]\[0\]: expected float32 or float64, rec"),
    "meta": (lambda: _one(device="meta"), None, TypeError, r"params\[0\]\[0\]: "),
    "sparse gradient": (_one, _sparse, ValueError, r"grads\[0\]\[0\]: expected a sparse tensor of rows"),
    "broadcast": (
        lambda: torch.ones(1, 2).expand(2, 2).requires_grad_(),
        None,
        ValueError,
        r"params\[0\]\[0\]: expected el",
    ),
}


@pytest.mark.parametrize("name", WRONG_TENSORS)
def test_tensors_that_cannot_be_moved_are_refused_by_name(name: str) -> None:
    make, grad, error, message = WRONG_TENSORS[name]
    p = make()
    optimizer = fu.torch.AdamW([p])
    p.grad = torch.ones_like(p, memory_format=torch.contiguous_format) if grad is None else grad(p)
    with pytest.raises(error, match=rf"\[adamw\] {message}"):
        optimizer.step()
    assert not optimizer.state_dict()["state"]


def test_parameters_that_share_memory_are_refused() -> None:
    p, q = _one(), _one()
    q.data = p.data
    optimizer = fu.torch.AdamW([p, q])
    p.grad, q.grad = torch.ones(2, 2), torch.ones(2, 2)
    with pytest.raises(ValueError, match=r"memory apart from params"):
        optimizer.step()


@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"betas": (2.0, 0.9)}, {"capturable": True}, {"lr": float("nan")}])
def test_a_wrong_value_in_a_group_is_refused_as_long_as_it_is_there(wrong: dict[str, Any]) -> None:
    params = parameters(1)
    optimizer = fu.torch.AdamW(params)
    hand_over(params, tensors(2))
    optimizer.step()
    before = copy.deepcopy(params)
    right = {key: optimizer.param_groups[0][key] for key in wrong}
    optimizer.param_groups[0].update(wrong)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"\[adamw\] (lr|beta1|capturable): expected"):
            optimizer.step()
    assert_same_bits(arrays_of(params), arrays_of(before), "parameters")
    optimizer.param_groups[0].update(right)
    optimizer.step()
    assert optimizer.state[params[0]]["step"] == 2


def test_after_an_error_nothing_has_changed() -> None:
    params = parameters(1)
    optimizer = fu.torch.AdamW(params, nonfinite="raise", ema_decay=0.9)
    for bad_first in (True, False):
        grads = tensors(2)
        for wrong in ([float("nan")] if bad_first else []) + [None, float("inf")]:
            before = copy.deepcopy((params, optimizer.state_dict()))
            hand_over(params, grads)
            if wrong is None:
                optimizer.step()
                continue
            params[4].grad[1, 1, 1, 1] = wrong
            with pytest.raises(FloatingPointError, match=r"\[adamw\] grads\[0\]\[4\]: expected finite values"):
                optimizer.step()
            assert_same_bits(arrays_of(params), arrays_of(before[0]), "parameters")
            torch.testing.assert_close(optimizer.state_dict(), before[1], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["Adam", "NAdam", "RAdam"])
def test_groups_say_whether_decay_is_decoupled(name: str) -> None:
    """As torch's do, in the middle of a run, and with the bits of the option; what groups differ in is named."""
    given = {"lr": 0.01, "weight_decay": 0.3}
    params = [parameters(1) for _ in range(3)]
    cls = getattr(fu.torch, name)
    ours, theirs = (c(p, **given) for c, p in ((cls, params[0]), (getattr(torch.optim, name), params[1])))
    option = cls(params[2], **given, decay="decoupled")
    for k in range(6):
        if k == 3:
            ours.param_groups[0]["decoupled_weight_decay"] = theirs.param_groups[0]["decoupled_weight_decay"] = True
            option.load_state_dict({**ours.state_dict(), "param_groups": option.state_dict()["param_groups"]})
            for p, q in zip(params[2], params[0], strict=True):
                p.data.copy_(q.data)
        for own, optimizer in zip(params, (ours, theirs, option), strict=True):
            hand_over(own, tensors(2 + k))
            optimizer.step()
    assert_same_bits(arrays_of(params[2]), arrays_of(params[0]), "parameters")
    for p, q in zip(params[0], params[1], strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
    torch.optim.RAdam([_one()]).load_state_dict(fu.torch.RAdam([_one()], decoupled_weight_decay=True).state_dict())
    mixed = cls([{"params": [_one()]}, {"params": [_one()], "decoupled_weight_decay": True}], **given)
    for group in mixed.param_groups:
        group["params"][0].grad = torch.ones_like(group["params"][0])
    with pytest.raises(ValueError, match=r"param_groups\[1\]\['decoupled_weight_decay'\]: expected False"):
        mixed.step()


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
    """With the bytes that it has on arrays."""
    arrays = [np.linspace(-1, 2, n, dtype=np.float32).reshape(shape) for n, shape in ((35, (7, 5)), (15, (5, 3)))]
    params = [torch.nn.Parameter(torch.from_numpy(a.copy())) for a in arrays]
    make = getattr(fu.torch, rules.get(rule).__name__)
    optimizer, same = make(params), rules.get(rule)(arrays)
    for k in range(3):
        grads = [np.cos(p + k) for p in arrays]
        for p, g in zip(params, grads, strict=True):
            p.grad = torch.from_numpy(g.copy())
        optimizer.step()
        same.step(grads)
    assert_same_bits([p.detach().numpy() for p in params], arrays, rule)
