"""What only some rules do before they update: maxima, numbers that go on, sums after products of matrices.

Plain NumPy and rules of one's own leave the same bytes, as tests/test_phases.py has it for the sample of rules.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import (
    DTYPES,
    Case,
    arrays_of,
    assert_same_bits,
    by_backend,
    by_dtype,
    by_name,
    cases_of,
    in_one_type,
)
from phased import STEPS, gradients, problem
from plain_phases import Plain

import fastupdate as fu

for _name in ("normuon", "radamschedulefree", "sm3"):
    pytest.importorskip(f"fastupdate.rules.{_name}", reason=f"a build of few rules, without {_name}")

from fastupdate.rules.normuon import NorMuon  # noqa: E402
from fastupdate.rules.radamschedulefree import RAdamScheduleFree  # noqa: E402
from fastupdate.rules.rule import NON_NEGATIVE, Hyper, State, rule_of, scalars  # noqa: E402
from fastupdate.rules.sm3 import SM3  # noqa: E402


@fu.rule
class OwnSM3(SM3):
    """The same as SM3."""


@fu.rule
class OwnRAdamScheduleFree(RAdamScheduleFree):
    """The same as RAdamScheduleFree."""


@fu.rule
class OwnNorMuon(NorMuon):
    """The same as NorMuon."""


OWN = {cls.rule.name.removeprefix("own"): cls for cls in (OwnSM3, OwnRAdamScheduleFree, OwnNorMuon)}


@pytest.mark.parametrize(
    ("case", "dtype"),
    [(c, t) for rule in OWN for c in cases_of(rule) for t in DTYPES if in_one_type(c, t)],
    ids=by_name,
)
def test_plain_numpy_and_rules_of_ones_own_leave_the_same_bytes(case: Case, dtype: Any) -> None:
    start, targets = problem(case, dtype)
    given = [[p.copy() for p in start] for _ in range(3)]
    opt, own, plain = case.make(given[0]), OWN[case.rule](given[1], **case.kwargs), Plain(case, given[2])
    for _ in range(STEPS):
        plain.step(gradients(given[2], targets))
        for each, params in ((opt, given[0]), (own, given[1])):
            each.step(gradients(params, targets))
    assert_same_bits(given[0], given[2], "params")
    for k, name in enumerate(opt.rule.states):
        if name not in opt.rule.passing:
            assert_same_bits(opt.state[name], [states[k] for states in plain.states], name)
    for kind, arrays in arrays_of(opt).items():
        assert_same_bits(arrays_of(own)[kind], arrays, kind)


@by_backend
@by_dtype
def test_a_gradient_that_is_not_a_number_is_in_every_maximum_over_it(backend: str, dtype: Any) -> None:
    p, g = np.ones((40, 1030), dtype), np.full((40, 1030), 2, dtype)
    g[7, 1027] = np.nan
    opt = fu.SM3([p], backend=backend)
    opt.step([g])
    rows, columns = (np.isnan(opt.state[name][0]) for name in ("row", "column"))
    assert list(np.flatnonzero(rows)) == [7]
    assert list(np.flatnonzero(columns)) == [1027]
    assert (opt.state["row"][0][~rows] == 4).all()


class GoesOn:
    """Source: none."""

    lr = Hyper(0.1, NON_NEGATIVE, "")
    total = State("", per="tensor")

    @staticmethod
    def prepare(h, t):
        return scalars(lr=h.lr)

    @staticmethod
    def settle_tensor(flags, s, n, total):
        return total + s.lr * n

    @staticmethod
    def update(flags, s, g, p, total):
        return (-total * g,)


def test_numbers_that_go_on_are_settled_once_a_step_and_never_of_a_tensor_without_elements() -> None:
    params = [np.ones(3), np.ones((0, 2)), np.ones((2, 2))]
    opt = fu.rule(GoesOn)(params)
    for k in (1, 2, 3):
        opt.step([np.ones_like(p) for p in params])
        assert [float(x) for x in opt.state["total"]] == pytest.approx([0.3 * k, 0.0, 0.4 * k])
    assert params[0] == pytest.approx(1 - 0.3 - 0.6 - 0.9)


def test_what_settles_alone_has_its_arguments_checked() -> None:
    wrong = type("GoesOn", (GoesOn,), {"settle_tensor": staticmethod(lambda flags, s, total: total)})
    with pytest.raises(TypeError, match=r"settle_tensor: expected the arguments \(flags, s, n, total\), received"):
        rule_of(wrong)


def test_both_ways_between_modes_are_there_or_none() -> None:
    wrong = type("GoesOn", (GoesOn,), {"evaluated": staticmethod(lambda h, p: p)})
    with pytest.raises(TypeError, match="trained: expected a @staticmethod, received none"):
        rule_of(wrong)
