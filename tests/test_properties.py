"""Generated calls: lists of arrays of any shape, type and layout, any options, steps of every kind, bad input too.

After every call all arrays have the bits of reference.py; after a failed one they have not changed. Each rule gets
EXAMPLES optimizers with CALLS calls on each, a thousand calls and more; on Numba as many each night.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from cases import BACKENDS, PRODUCT, RULES, Case, arrays_of, assert_same_bits, cases_of, fingerprint
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Reference

import fastupdate as fu

EXAMPLES = int(os.environ.get("FASTUPDATE_TEST_EXAMPLES", "260"))
SHARE = 1 if PRODUCT else 4  # one in so many on Numba, which has the frame in common with the native engine
CALLS = 4

Shape = tuple[int, ...]
edges = st.sampled_from([0, 1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 1023, 1024, 1025, 2049])
shapes = st.one_of(
    st.tuples(),
    st.tuples(edges),
    st.tuples(st.integers(0, 70)),
    st.lists(st.integers(0, 9), min_size=2, max_size=4).map(tuple),
)


def _misaligned(a: np.ndarray) -> np.ndarray:
    raw = np.zeros(a.nbytes + 1, np.uint8)
    b = raw[1:].view(a.dtype).reshape(a.shape)
    b[...] = a
    return b


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "contiguous": np.array,
    "transposed": lambda a: np.array(a, order="F"),
    "strided": lambda a: np.stack([a, a + 1], axis=-1)[..., 0],
    "reversed": lambda a: np.array(a[::-1])[::-1] if a.ndim else np.array(a),
    "misaligned": _misaligned,
}
layouts = st.sampled_from([*LAYOUTS])


@dataclass(frozen=True)
class Spec:
    """One tensor of an optimizer."""

    shape: Shape
    dtype: str
    layout: str

    def array(self, rng: np.random.Generator, layout: str, samples: int = 0) -> np.ndarray:
        shape = (samples, *self.shape) if samples else self.shape
        values = np.array(rng.standard_normal(shape) * np.exp(2 * rng.standard_normal(shape)), self.dtype)
        return LAYOUTS[layout](values)


specs = st.builds(Spec, shapes, st.sampled_from(["f4", "f8"]), layouts)

clipping = st.sampled_from([{}, {"clip_norm": 2.0}, {"clip_tensor_norm": 0.5}, {"clip_unit_norm": 0.1}])
extras: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "clip_value": st.sampled_from([0.0, 0.3, 2.0]),
        "l1": st.sampled_from([0.0, 0.01, 0.5]),
        "l1_mode": st.sampled_from(["subgradient", "proximal"]),
        "decay": st.sampled_from(["coupled", "decoupled", "independent"]),
        "nonfinite": st.sampled_from(["propagate", "skip"]),
        "ema_decay": st.sampled_from([0.0, 0.5, 0.999]),
        "shadow": st.sampled_from(["float16", "bfloat16"]),
        "lookahead": st.sampled_from([(1, 0.5), (2, 1.0), (3, 0.2)]),
        "zero_grads": st.booleans(),
        "maximize": st.booleans(),
        "monitor": st.booleans(),
    },
)
options = st.builds(lambda a, b: {**a, **b}, clipping, extras)

SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-42, 1e20, 3e38]


@dataclass(frozen=True)
class Call:
    """One call: what kind, and the seeds of what it is given."""

    kind: str
    seed: int
    layout: str
    special: float | None
    loss_scale: float


calls = st.builds(
    Call,
    st.sampled_from(["step", "bound", "samples", "accumulate", "bad"]),
    st.integers(0, 999),
    layouts,
    st.one_of(st.none(), st.sampled_from(SPECIAL)),
    st.sampled_from([1.0, 3.0, 1024.0]),
)

BAD: dict[str, Callable[[np.ndarray], Any]] = {
    "dtype": lambda g: np.ones(g.shape, "f4" if g.dtype == "f8" else "f8"),
    "integer": lambda g: np.ones(g.shape, np.int32),
    "shape": lambda g: np.zeros((*g.shape, 2), g.dtype),
    "longer": lambda g: np.zeros(g.size + 1, g.dtype),
    "byte-swapped": lambda g: g.astype(g.dtype.newbyteorder()),
    "none": lambda g: None,
    "masked": np.ma.masked_invalid,
}


class Trial:
    """An optimizer and its reference, side by side."""

    def __init__(self, case: Case, tensors: list[Spec], chosen: dict[str, Any], backend: str) -> None:
        rng = np.random.default_rng(0)
        self.specs, self.options = tensors, chosen
        params = [spec.array(rng, spec.layout) for spec in tensors]
        self.reference = Reference(case, params, **chosen)
        self.opt = case.make(params, backend=backend, **chosen)

    def gradients(self, call: Call, samples: int = 0) -> list[np.ndarray]:
        rng = np.random.default_rng(call.seed)
        grads = [spec.array(rng, call.layout, samples) for spec in self.specs]
        if call.special is not None:
            victims = [g for g in grads if g.size]
            if victims:
                victim = victims[call.seed % len(victims)]
                with np.errstate(over="ignore"):
                    victim[np.unravel_index(call.seed % victim.size, victim.shape)] = call.special
        return grads

    def run(self, call: Call) -> None:
        getattr(self, call.kind)(call)
        for kind, values in self.reference.arrays().items():
            mine = arrays_of(self.opt)[kind]
            assert_same_bits(mine, [np.reshape(v, a.shape) for v, a in zip(values, mine, strict=True)], kind)
        assert self.opt.step_count == self.reference.t

    def compare(self, report: fu.Report, taken: bool) -> None:
        assert report.skipped is not taken
        if taken:
            np.testing.assert_array_equal(report.clip_factor, self.reference.clip_factor)
        if report.grad_norm is not None:
            np.testing.assert_array_equal(report.grad_norm, self.reference.grad_norm)

    def cleared(self, grads: list[np.ndarray], report: fu.Report) -> None:
        if self.options.get("zero_grads") and not report.skipped:
            assert not any(g.any() for g in grads)

    def both(
        self, grads: list[np.ndarray], act: Callable[[], fu.Report], *arguments: Any, cleared: bool = True
    ) -> None:
        """A step of the reference, and the same by `act`."""
        taken = self.reference.step(grads, *arguments)
        report = act()
        self.compare(report, taken)
        if cleared:
            self.cleared(grads, report)

    def step(self, call: Call) -> None:
        grads = self.gradients(call)
        self.both(grads, lambda: self.opt.step(grads, loss_scale=call.loss_scale), call.loss_scale)

    def bound(self, call: Call) -> None:
        grads = self.gradients(call)
        self.opt.bind(grads)
        for _ in range(2):
            self.both(grads, self.opt.step)

    def samples(self, call: Call) -> None:
        grads, reduce = self.gradients(call, samples=3), "mean" if call.seed % 2 else "sum"
        arguments = call.loss_scale, reduce
        self.both(grads, lambda: self.opt.step(grads, loss_scale=call.loss_scale, reduce=reduce), *arguments)

    def accumulate(self, call: Call) -> None:
        n = call.seed % 3 + 1
        total: list[np.ndarray] = []
        for k in range(n):
            batch = self.gradients(Call("step", call.seed + k, call.layout, call.special, 1.0))
            with np.errstate(all="ignore"):
                total = [a + b for a, b in zip(total, batch, strict=True)] if total else [b.copy() for b in batch]
            self.opt.accumulate(batch)
        self.both(total, lambda: self.opt.step(loss_scale=call.loss_scale), call.loss_scale * n, cleared=False)

    def bad(self, call: Call) -> None:
        grads: list[Any] = self.gradients(call)
        k = call.seed % len(grads)
        grads[k] = BAD[list(BAD)[call.seed % len(BAD)]](grads[k])
        before = fingerprint(self.opt, *grads)
        with pytest.raises((TypeError, ValueError), match=rf"^\[{self.opt.rule.name}\] grads\[{k}\]: expected"):
            self.opt.step(grads)
        assert fingerprint(self.opt, *grads) == before


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", RULES)
def test_generated_calls(rule, backend):
    @settings(max_examples=EXAMPLES // SHARE if backend == "numba" else EXAMPLES)
    @given(
        st.sampled_from(cases_of(rule)),
        st.lists(specs, min_size=1, max_size=4),
        options,
        st.lists(calls, min_size=CALLS, max_size=CALLS),
    )
    def check(case: Case, tensors: list[Spec], chosen: dict[str, Any], sequence: list[Call]) -> None:
        trial = Trial(case, tensors, chosen, backend)
        for call in sequence:
            trial.run(call)

    check()
