"""fastupdate.torch: the bits of fastupdate, in the contract of torch.optim; saved, loaded and copied."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from functools import partial
from typing import Any

import numpy as np
import pytest
from cases import MIXED_OPTIONS, OURS_ALONE, SUM_OPTIONS, Case, assert_same_bits, by_dtype, random_arrays
from peers import file_needs, peer
from tolerances import PEER, Drift
from torch_cases import (
    BESIDE_TORCH,
    LACKING,
    LAYOUTS,
    arrays_of,
    by_case,
    by_rule,
    default_dtype,
    hand_over,
    ours,
    parameters,
    tensors,
    theirs,
    torch,
)
from torch_runs import STEPS, a_run, copied, steps

import fastupdate as fu

pytestmark = pytest.mark.peer
file_needs("torch")


@pytest.fixture(autouse=True)
def _torch_there() -> None:
    peer("torch")


beside_torch = pytest.mark.parametrize("case", BESIDE_TORCH, ids=str)
by_layout = pytest.mark.parametrize("layout", LAYOUTS)

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clip_norm": {"clip_norm": 0.5},
    "clip_value": {"clip_value": 0.3},
    "clip_value-pair": {"clip_value": (-0.1, 0.3)},
    "lasso": {"l1": 1e-3, "l1_mode": "proximal"},
    "corrected": {"decay": "corrected", "peak_lr": 0.1},
    "after": {"decay": "after"},
    "cautious-decay": {"decay": "cautious"},
    "masked": {"optimism": 0.3, "cautious": True},
    "averages": {"ema_decay": 0.9, "lookahead": (2, 0.5), "shadow": "bfloat16"},
    "skip": {"nonfinite": "skip", "shadow": "float16"},
    "monitor": {"monitor": True, "zero_grads": True},
    **MIXED_OPTIONS,
    **SUM_OPTIONS,
}


def state_of(optimizer: Any, params: list[Any], name: str) -> list[np.ndarray]:
    found = [optimizer.state[p][name].detach() for p in params]
    return [t.view(torch.int16).numpy().view(np.uint16) if t.dtype == torch.bfloat16 else t.numpy() for t in found]


# -- the same bits as arrays ------------------------------------------------------------------------------------------


@by_case
@by_dtype
@by_layout
def test_tensors_are_moved_as_arrays_are(case: Case, dtype: Any, layout: str) -> None:
    params = parameters(1, dtype, layout)
    arrays = [a.copy() for a in arrays_of(params)]
    optimizer, reference = ours(case, params), case.make(arrays)
    for step in range(4):
        grads = tensors(2 + step, dtype)
        hand_over(params, grads)
        optimizer.step()
        reference.step(arrays_of(grads))
    assert_same_bits(arrays_of(params), arrays, "parameters")
    names = fu.torch.names.state_names(optimizer.rule)
    for name in reference.rule.states_of("element"):
        if name in reference.state:
            assert_same_bits(state_of(optimizer, params, names[name]), list(reference.state[name]), name)


@by_rule
@by_layout
@pytest.mark.parametrize("option", OPTIONS)
def test_options_do_as_with_arrays(case: Case, option: str, layout: str) -> None:
    params = parameters(1, np.float32, layout)
    arrays = [a.copy() for a in arrays_of(params)]
    given = dict(OPTIONS[option])
    optimizer, reference = ours(case, params, **given), case.make(arrays, **given)
    for step in range(4):
        grads = tensors(2 + step)
        hand_over(params, grads)
        optimizer.step()
        told = reference.step([g.numpy().copy() for g in grads])
        assert repr(optimizer.report) == repr(told)
        if given.get("zero_grads"):
            assert not any(p.grad.any() for p in params)
    assert_same_bits(arrays_of(params), arrays, "parameters")
    for kept in ("ema", "slow", "shadow"):
        if getattr(reference, kept) is not None:
            assert_same_bits(state_of(optimizer, params, kept), list(getattr(reference, kept)), kept)
    if given.get("monitor"):
        for name in ("grad_norm", "weight_norm", "update_norm"):
            assert_same_bits(optimizer.report.tensors[name], reference.report.tensors[name], name)


def test_a_matrix_rule_moves_matrices_alone() -> None:
    shapes = [(4, 6), (6, 4), (5, 5)]
    arrays = [a.reshape(shape) for a, shape in zip(random_arrays(1, [24, 24, 25], np.float32), shapes, strict=True)]
    params = [torch.nn.Parameter(torch.from_numpy(a.copy())) for a in arrays]
    optimizer, reference = fu.torch.Muon(params, lr=0.1), fu.Muon(arrays, lr=0.1, nesterov=True)
    for seed in range(3):
        grads = random_arrays(2 + seed, [24, 24, 25], np.float32)
        for p, g in zip(params, grads, strict=True):
            p.grad = torch.from_numpy(g.reshape(p.shape).copy())
        optimizer.step()
        reference.step([g.reshape(shape) for g, shape in zip(grads, shapes, strict=True)])
    assert_same_bits(arrays_of(params), arrays, "parameters")
    assert list(optimizer.state[params[0]]) == ["momentum_buffer"]
    vector = torch.nn.Parameter(torch.ones(3))
    vector.grad = torch.ones(3)
    with pytest.raises(ValueError, match=r"\[muon\] params\[0\]\[0\]: expected a matrix"):
        fu.torch.Muon([vector]).step()


ITERATIONS = {"ns_coefficients": (2.0, -1.5, 0.5), "eps": 30.0, "ns_steps": 3}


@pytest.mark.parametrize("told", [{}, ITERATIONS], ids=["plain", "told"])
@pytest.mark.parametrize("scale", [None, "original", "match_rms_adamw"])
def test_muon_changes_hands(scale: Any, told: dict[str, Any]) -> None:
    """Both ways, with the scale of its steps, which torch has another name for; it multiplies matrices in bfloat16."""
    shapes = [(4, 6), (6, 4), (5, 5)]
    start, *grads = (random_arrays(seed, [24, 24, 25], np.float32) for seed in range(5))

    def run(*makers: Any) -> list[Any]:
        params = [torch.nn.Parameter(torch.from_numpy(a.reshape(s).copy())) for a, s in zip(start, shapes, strict=True)]
        states: list[Any] = []
        for k, make in enumerate(makers):
            optimizer = make(params)
            for state in states:
                optimizer.load_state_dict(copy.deepcopy(state))
            for of_step in grads[2 * k : 2 * k + 2]:
                for p, g in zip(params, of_step, strict=True):
                    p.grad = torch.from_numpy(g.reshape(p.shape).copy())
                optimizer.step()
            states = [optimizer.state_dict()]
        return arrays_of(params)

    given = {"lr": 0.1, "nesterov": True, "weight_decay": 0.3, **told}
    here = partial(fu.torch.Muon, **given, match_rms_adamw=scale == "match_rms_adamw")
    in_its_words, there = (partial(make, **given, adjust_lr_fn=scale) for make in (fu.torch.Muon, torch.optim.Muon))
    reference = run(there, torch.optim.Muon)
    for makers in ((here, torch.optim.Muon), (in_its_words, torch.optim.Muon), (there, fu.torch.Muon)):
        for a, b, first in zip(run(*makers), reference, start, strict=True):
            assert np.abs(a - b).max() <= 0.03 * np.abs(b - first.reshape(b.shape)).max()


@pytest.mark.parametrize("order", ["from the package", "to the package"])
def test_lion_changes_hands(order: str) -> None:
    case = Case("lion", "", {"lr": 0.01, "weight_decay": 0.3})

    def theirs(case: Case, params: list[Any]) -> Any:
        return peer("lion_pytorch").Lion(params, **case.kwargs)

    first, second = (theirs, ours) if order == "from the package" else (ours, theirs)
    (optimizer, params), (reference, others) = a_run(case, first), a_run(case, theirs)
    after = second(case, params)
    after.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(after, params, STEPS)
    steps(reference, others, STEPS)
    for a, b in zip(arrays_of(params), arrays_of(others), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@by_rule
@by_layout
@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("option", ["plain", "clip_norm"])
def test_narrow_gradients_are_read_where_they_are(case: Case, layout: str, kind: str, option: str) -> None:
    """With the bits of a step by the same gradients in float32."""
    params, others = parameters(1, np.float32, layout), parameters(1, np.float32, layout)
    optimizer, reference = (ours(case, part, **OPTIONS[option]) for part in (params, others))
    for p in params:
        p.grad_dtype = getattr(torch, kind)
    for step in range(3):
        narrow = [g.to(getattr(torch, kind)) for g in tensors(2 + step)]
        for p, g in zip(params, narrow, strict=True):
            p.grad = torch.empty_like(p, dtype=g.dtype).copy_(g)
        hand_over(others, narrow)
        optimizer.step()
        reference.step()
    assert_same_bits(arrays_of(params), arrays_of(others), "parameters")


# -- beside torch -----------------------------------------------------------------------------------------------------


@beside_torch
@by_dtype
@by_layout
@pytest.mark.parametrize("maximize", [False, True])
def test_beside_torch(case: Case, dtype: Any, layout: str, maximize: bool) -> None:
    params, others = parameters(1, dtype, layout), parameters(1, dtype, layout)
    with default_dtype(dtype):
        optimizer, reference = ours(case, params, maximize=maximize), theirs(case, others, maximize=maximize)
    drifts = [Drift(a) for a in arrays_of(params)]
    for step in range(6):
        grads = tensors(2 + step, dtype)
        hand_over(params, grads)
        hand_over(others, grads)
        with default_dtype(dtype):
            optimizer.step()
            reference.step()
        for drift, p, q in zip(drifts, params, others, strict=True):
            drift.compare(p.detach().numpy(), q.detach().numpy())
    assert max(drift.worst for drift in drifts) <= PEER
    states, reference_states = (o.state_dict()["state"] for o in (optimizer, reference))
    for k in range(len(params)):
        state, reference_state = states.get(k, {}), reference_states.get(k, {})
        assert state.keys() == reference_state.keys()
        for name, tensor in state.items():
            other = reference_state[name]
            assert (tensor.dtype, tensor.shape) == (other.dtype, other.shape), name
            if name in fu.torch.names.NUMBERS.get(case.rule, {}):
                torch.testing.assert_close(tensor, other)
            assert layout == "strided" or not tensor.numel() or tensor.stride() == other.stride(), name
    mine, torchs = (o.state_dict()["param_groups"][0].keys() for o in (optimizer, reference))
    assert (
        mine - fu.torch.numbers.SWITCHES.keys() - OURS_ALONE - LACKING.get(case.rule, set()) <= torchs
    )  # each of torch's classes has some of the switches


# -- saving, loading --------------------------------------------------------------------------------------------------

WAYS = {
    "as it is": lambda state, path: state,
    "deepcopy": lambda state, path: copy.deepcopy(state),
    "file": lambda state, path: (torch.save(state, path), torch.load(path, weights_only=True))[1],
}


@by_rule
@by_layout
@pytest.mark.parametrize("option", ["plain", "averages"])
@pytest.mark.parametrize("way", WAYS)
def test_a_loaded_run_goes_on_with_the_same_bits(case: Case, layout: str, option: str, way: str, tmp_path: Any) -> None:
    optimizer, params = a_run(case, ours, layout, **OPTIONS[option])
    others = copied(params)
    another = ours(case, others, **OPTIONS[option])
    another.load_state_dict(WAYS[way](optimizer.state_dict(), tmp_path / "state.pt"))
    assert all(
        tensor.dtype == optimizer.state[p][name].dtype
        for p, q in zip(params, others, strict=True)
        for name, tensor in another.state[q].items()
    )
    for o, its in ((optimizer, params), (another, others)):
        steps(o, its, STEPS)
    assert_same_bits(arrays_of(others), arrays_of(params), "parameters")


@beside_torch
def test_through_torch_and_back(case: Case) -> None:
    """What torch's optimizer is given and gives back is nothing but the state: the bits are those of a run unbroken."""
    optimizer, params = a_run(case, ours)
    others = copied(params)
    torchs, back = theirs(case, others), ours(case, others)
    torchs.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    back.load_state_dict(copy.deepcopy(torchs.state_dict()))
    for o, its in ((optimizer, params), (back, others)):
        steps(o, its, STEPS)
    assert_same_bits(arrays_of(others), arrays_of(params), "parameters")


@beside_torch
@pytest.mark.parametrize("order", ["from torch", "to torch"])
def test_a_run_changes_hands(case: Case, order: str) -> None:
    """Beside a run all of torch's, one that changes from or to torch in the middle."""
    first, second = (theirs, ours) if order == "from torch" else (ours, theirs)
    optimizer, params = a_run(case, first)
    reference, others = a_run(case, theirs)
    drifts = [Drift(a) for a in arrays_of(parameters(1))]
    after = second(case, params)
    after.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(after, params, STEPS)
    steps(reference, others, STEPS)
    for drift, p, q in zip(drifts, params, others, strict=True):
        drift.compare(p.detach().numpy(), q.detach().numpy())
    assert max(drift.worst for drift in drifts) <= PEER


@by_rule
@pytest.mark.parametrize(
    "copying", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"]
)
def test_copies_go_on_by_themselves(case: Case, copying: Any) -> None:
    optimizer, params = a_run(case, ours, **OPTIONS["averages"])
    twin, others = copying((optimizer, params))
    steps(optimizer, params, STEPS)
    steps(twin, others, STEPS)
    assert_same_bits(arrays_of(others), arrays_of(params), "parameters")
    assert type(twin) is type(optimizer)
    assert twin.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]


def test_an_old_state_with_counts_as_numbers_loads() -> None:
    optimizer, params = a_run(Case("adamw", "", {}), ours)
    state = copy.deepcopy(optimizer.state_dict())
    for entry in state["state"].values():
        entry["step"] = int(entry["step"])
    others = copied(params)
    another = fu.torch.AdamW(others)
    another.load_state_dict(state)
    for o, its in ((optimizer, params), (another, others)):
        steps(o, its, STEPS)
    assert_same_bits(arrays_of(others), arrays_of(params), "parameters")


def test_new_states_of_a_list_lie_one_after_the_other_in_storages_of_their_own() -> None:
    params = parameters(1)
    optimizer = fu.torch.AdamW(params)
    hand_over(params, tensors(2))
    optimizer.step()
    states = [optimizer.state[p]["exp_avg"] for p in params if p.numel()]
    begins = [state.data_ptr() for state in states]
    assert begins == sorted(begins)
    for state, begin, after in zip(states, begins, begins[1:], strict=False):
        assert after - begin == -(-state.nbytes // 64) * 64
        assert state.untyped_storage().nbytes() == state.nbytes
    held = [weakref.ref(state) for state in states]
    copied = copy.deepcopy(states[-1])
    del optimizer, states, state
    gc.collect()
    assert not any(state() is not None for state in held)
    assert copied.isfinite().all()
