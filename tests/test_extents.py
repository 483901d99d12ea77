"""States that are not shaped like the parameter: saved, copied, thawed, given to functions; and what is refused."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cases import Case, assert_same_bits, exactly
from phased import FIRST, STEPS, by_first, gradients, problem

import fastupdate as fu
from fastupdate.rules.rule import NON_NEGATIVE, Factor, Hyper, State, Sum, rule_of, scalars

# ---- states that are not shaped like the parameter ------------------------------------------------------------------


@by_first
def test_a_run_that_was_saved_in_the_middle_goes_on_with_the_same_bytes(case: Case, tmp_path: Any) -> None:
    start, targets = problem(case, np.float32)
    params = [p.copy() for p in start]
    opt = case.make(params)
    for _ in range(2):
        opt.step(gradients(params, targets))
    opt.save(tmp_path / "run")
    resumed = [p.copy() for p in params]
    other = case.make(resumed)
    other.load_state_dict(fu.load(tmp_path / "run"))
    for _ in range(2):
        opt.step(gradients(params, targets))
        other.step(gradients(resumed, targets))
    assert exactly(opt.state_dict()) == exactly(other.state_dict())
    assert_same_bits(resumed, params, "params")


@by_first
def test_copies_are_apart_from_what_they_are_copies_of(case: Case) -> None:
    start, targets = problem(case, np.float32)
    opt = case.make([p.copy() for p in start])
    opt.step(gradients(start, targets))
    twin = copy.deepcopy(opt)
    before = exactly(twin.state_dict())
    opt.step(gradients(start, targets))
    assert exactly(twin.state_dict()) == before


@pytest.mark.parametrize("case", [c for c in FIRST if c.rule != "muon"], ids=str)
def test_functional_calls_take_states_of_any_extent(case: Case) -> None:
    start, targets = problem(case, np.float32)
    params, called = ([p.copy() for p in start] for _ in range(2))
    opt = case.make(params)
    states = {k: copy.deepcopy(v) for k, v in case.make(called).state.items()}
    for name in states:
        if opt.rule.extents[name] == "list":
            states[name] = [states[name][0]] * len(called)
    for step in range(1, STEPS + 1):
        opt.step(gradients(params, targets))
        getattr(fu.functional, case.rule)(
            called, gradients(called, targets), *states.values(), step=step, **case.kwargs
        )
    assert_same_bits(called, params, "params")


def test_a_state_of_the_list_is_one_array() -> None:
    opt = fu.Prodigy([np.ones((3, 2)), np.ones(5)])
    assert np.shares_memory(*opt.state["d"])
    assert opt.state["d"][0].shape == ()
    assert float(opt.state["d"][0]) == 1e-6


@by_first
@pytest.mark.parametrize("order", ["F", "strided"])
def test_parameters_that_lie_otherwise_end_with_the_same_bytes(case: Case, order: str) -> None:
    start, targets = problem(case, np.float32)

    def laid(a: np.ndarray) -> np.ndarray:
        return np.asfortranarray(a) if order == "F" else np.repeat(a[..., None], 2, -1)[..., 0]

    params, others = [p.copy() for p in start], [laid(p) for p in start]
    opts = [case.make(p) for p in (params, others)]
    for _ in range(STEPS):
        for opt, own in zip(opts, (params, others), strict=True):
            opt.step([laid(g) if own is others else g for g in gradients(own, targets)])
    assert_same_bits(others, params, "params")


@by_first
def test_a_tensor_that_thaws_with_new_states_starts_as_it_did(case: Case) -> None:
    start, targets = problem(case, np.float32)
    params = [p.copy() for p in start]
    opt = case.make(params)
    fresh = exactly({k: v[0] for k, v in opt.state.items() if opt.rule.extents[k] != "list"})
    opt.step(gradients(params, targets))
    params[0][...] = start[0]
    opt.freeze("0")
    opt.unfreeze("0", state="reset")
    assert exactly({k: v[0] for k, v in opt.state.items() if opt.rule.extents[k] != "list"}) == fresh


class Halved:
    """A rule whose products need no numbers of the step."""

    lr = Hyper(1.0, NON_NEGATIVE, "learning rate")
    o = State("the direction", lasts=False)

    @staticmethod
    def prepare(h: Any, t: float) -> Any:
        return scalars(lr=h.lr)

    @staticmethod
    def measure(flags: Any, s: Any, g: Any, p: Any, o: Any) -> Any:
        return g

    @staticmethod
    def matrix(flags: Any, o: Any) -> Any:
        return 0.5 * o

    @staticmethod
    def update(flags: Any, s: Any, g: Any, p: Any, o: Any) -> Any:
        return -s.lr * o, o


def test_products_may_do_without_numbers() -> None:
    weights = np.ones((2, 3))
    fu.rule(Halved)([weights], lr=0.5).step([np.full((2, 3), 4.0)])
    assert (weights == 0.0).all()


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_muon_names_a_parameter_that_is_no_matrix() -> None:
    with pytest.raises(ValueError, match=r"\[muon\] params\[1\]: expected a matrix .*, received shape \(3,\)"):
        fu.Muon([np.ones((2, 2)), np.ones(3)])


def test_factors_that_are_kept_are_those_of_a_step_that_was_taken() -> None:
    """A step that is left out or fails leaves them as they were, and a checkpoint goes on with them."""
    w, g = np.arange(12.0).reshape(3, 4) ** 0.5, np.cos(np.arange(12.0)).reshape(3, 4)
    opts = [fu.SOAP([w.copy()], lr=0.1, max_precondition_dim=3, nonfinite=how) for how in ("skip", "propagate")]
    before = exactly(opts[1].state)
    with pytest.raises(FloatingPointError, match=r"\[soap\] grads\[0\]: expected a gradient whose products have"):
        opts[1].step([np.full((3, 4), np.nan)])
    assert exactly(opts[1].state) == before
    for k in range(3):
        opts[0].step([g + k])
    before = exactly(opts[0].state)
    opts[0].step([g * np.nan])
    assert exactly(opts[0].state) == before
    assert [opts[0].state[name][0].shape for name in ("left", "right")] == [(3, 3), (0, 0)]
    opts[1].load_state_dict(opts[0].state_dict())
    for a, b in zip(opts[0].state.values(), opts[1].state.values(), strict=True):
        assert_same_bits(a, b, "state")
    opts[1].freeze("*")
    opts[1].unfreeze("*", state="reset")
    opts[1].step([g])
    fresh = fu.SOAP([w.copy()], lr=0.1, max_precondition_dim=3)
    fresh.step([g])
    assert exactly({**opts[1].state, "v": 0}) == exactly({**fresh.state, "v": 0})


class _LinAlgError(RuntimeError):
    """As torch has one of its own."""


def fails(_matrix: Any) -> Any:
    raise _LinAlgError("it does not converge")


SOLVERS = {  # of libraries that look at nothing, and that have an error of their own
    "silent": (lambda matrix: (matrix[0], matrix), np.nan, "they are not finite"),
    "failing": (fails, 1.0, "it does not converge"),
}


@pytest.mark.parametrize(("solve", "value", "message"), SOLVERS.values(), ids=SOLVERS)
def test_eigenvectors_that_a_library_does_not_find(solve: Any, value: float, message: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("fastupdate.rules.soap.linalg_of", lambda _: SimpleNamespace(eigh=solve))
    opt = fu.SOAP([np.ones((3, 4))])
    before = exactly(opt.state)
    with pytest.raises(FloatingPointError, match=rf"\[soap\] grads\[0\]: expected a gradient whose .* {message}"):
        opt.step([np.full((3, 4), value)])
    assert exactly(opt.state) == before


def declared(**members: Any) -> type:
    """A rule that measures, but for what is changed."""

    def prepare(h: Any, t: Any) -> Any:
        return scalars(lr=h.lr)

    def measure(flags: Any, s: Any, g: Any, p: Any, size: Any) -> Any:
        return g * g

    def settle_tensor(flags: Any, s: Any, n: Any, squares: Any, size: Any) -> Any:
        return squares / n

    def update(flags: Any, s: Any, g: Any, p: Any, size: Any) -> Any:
        return (-s.lr * g / size,)

    own = SimpleNamespace(
        lr=Hyper(0.1, NON_NEGATIVE, "rate"),
        size=State("mean square", per="tensor"),
        squares=Sum("squares", per="tensor"),
        **{f.__name__: staticmethod(f) for f in (prepare, measure, settle_tensor, update)},
    )
    return type("Sized", (), {k: v for k, v in {**vars(own), **members}.items() if v is not None})


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"settle_tensor": None}, r"settle_tensor: expected a @staticmethod, received none"),
        (
            {"squares": Sum("", per="tensor", of="measure_2")},
            r"squares: expected `of` to name a function that measures",
        ),
        ({"settle_row": staticmethod(lambda *_: 0)}, r"settle_row: expected a Hyper"),
        (
            {
                "more": Sum("", per="tensor", of="measure_2"),
                "measure_2": staticmethod(lambda flags, s, g, p, size: g),
            },
            r"settle_tensor_2: expected a @staticmethod, received none",
        ),
        (
            {"measure": staticmethod(lambda flags, s, g, p: g)},
            r"measure: expected the arguments \(flags, s, g, p, size\), received \(flags, s, g, p\)",
        ),
        (
            {"size": State("", per="tensor", when="lr")},
            r"size: expected a state of an element, where `when` names a flag, received per tensor",
        ),
        (
            {"left": Factor("", per="rows", at_most="longest")},
            r"left: expected `at_most` to name a hyperparameter, received 'longest'",
        ),
        (
            {"matrix": staticmethod(lambda flags, s, left: left)},
            r"matrix: expected the arguments \(flags, …\) or \(flags, s, …\), of states, received \(flags, s, left\)",
        ),
    ],
)
def test_parts_that_do_not_fit_together_are_named(members: dict[str, Any], message: str) -> None:
    rule_of(declared())
    with pytest.raises(TypeError, match=rf"\[sized\] {message}"):
        rule_of(declared(**members))


def test_a_matrix_without_elements_is_left_alone() -> None:
    """Muon's scale by rows and columns would divide by zero, between the phases of a step."""
    whole, params = [np.ones((3, 4))], [np.ones((3, 4)), np.zeros((0, 4))]
    alone, both = (fu.Muon(arrays, rows_are_inputs=True) for arrays in (whole, params))
    alone.step([np.eye(3, 4)])
    both.step([np.eye(3, 4), np.zeros((0, 4))])
    assert_same_bits(params[0], whole[0], "what has elements")
