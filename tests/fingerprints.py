"""Short histories of optimizers and a hash of every byte that they leave, through the public face alone.

    python tests/fingerprints.py            which hashes differ from tests/fingerprints.json
    python tests/fingerprints.py --write    takes over those of today: a change of bits belongs in the changelog

The data are made of integers and powers of two, for NumPy's random floats and logarithms differ between processors;
so do its cosines, hence no schedule here takes one that is not a whole number.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from cases import CASES, DTYPES, ENGINES, EVERY_CASE, FIRST_CASES, MIXED_OPTIONS, SUM_OPTIONS, Case, Engine

import fastupdate as fu

FILE = Path(__file__).with_suffix(".json")
STEPS = 5
SHAPES: dict[str, tuple[int, ...]] = {  # around the widths of registers, lanes, tiles and blocks
    **{f"v{n}": (n,) for n in (0, 1, 15, 16, 17, 31, 33, 127, 128, 129, 1023, 1024, 1025, 2049)},
    "scalar": (),
    "matrix": (33, 37),
    "cube": (5, 7, 9),
}  # fmt: skip
SPECIAL = [np.nan, -0.0, np.inf, 1e-42, -np.inf, 0.0, 3e38, -1e-39, -np.nan, 1e20]

Arrays = dict[str, np.ndarray]


# -- data -------------------------------------------------------------------------------------------------------------


def integers(seed: int, n: int) -> np.ndarray:
    """Random uint64 by splitmix64: integer arithmetic, the same everywhere."""
    z = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed << 32)
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return z ^ z >> np.uint64(31)


def numbers(seed: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Of both signs and magnitudes from 2⁻⁸ to 8, in full precision."""
    bits = integers(seed, int(np.prod(shape)))
    fraction = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    exponent = (bits & np.uint64(15)).astype(np.int64) % 11 - 7
    sign = 1.0 - 2.0 * (bits >> np.uint64(4) & np.uint64(1)).astype(np.float64)
    return (sign * np.ldexp(0.5 + fraction / 2, exponent)).astype(dtype).reshape(shape)


@cache
def tensors(seed: int, dtype: Any, samples: int = 0) -> Arrays:
    """One array of each shape, with one more leading axis if it holds samples; not to be written to."""
    lead = (samples,) if samples else ()
    return {name: numbers(100 * seed + k, lead + shape, dtype) for k, (name, shape) in enumerate(SHAPES.items())}


def misaligned(a: np.ndarray) -> np.ndarray:
    b = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    b[...] = a
    return b


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "contiguous": np.array,
    "fortran": lambda a: np.array(a, order="F"),
    "strided": lambda a: np.stack([a, a + 1], axis=-1)[..., 0],
    "reversed": lambda a: np.array(a[::-1])[::-1] if a.ndim else np.array(a),
    "misaligned": misaligned,
}


# -- histories --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class History:
    """What happens to an optimizer in STEPS steps."""

    options: Mapping[str, Any] = field(default_factory=dict)
    feed: str = "step"  # how it gets its gradients: see FEEDS
    layout: str = "contiguous"
    loss_scale: float = 1.0
    special: bool = False  # NaN, infinities, denormals among the gradients of some steps
    before: Mapping[int, Callable[[fu.Optimizer], Any]] = field(default_factory=dict)  # step → what is done first
    equals: str | None = None  # the history that leaves the same bytes; None: it has a hash of its own


def halved(t: int) -> float:
    return 0.5 ** (t + 5)


def raise_lr(opt: fu.Optimizer) -> None:
    opt.groups[0]["lr"] = 2**-5


GROUPS = [
    {"params": "v1*", "lr_scale": 0.25, "clip_value": 0.5},
    {"params": ["matrix", "*9"], "lr": 2**-4, "weight_decay": 0.0, "l1": 1e-3},
    {"params": "cube", "frozen_until": 2},
]
NORMS = {"clip_norm": 30.0, "nonfinite": "skip", "monitor": True}
TRANSFER = {
    1: lambda opt: opt.freeze(["matrix", "v1", "v1??", "v1???"]),
    3: lambda opt: [opt.unfreeze("matrix", state="reset"), opt.unfreeze("v1??", state=0.5), opt.unfreeze("v1???")],
}
COSINE = fu.schedules.cosine(2**-6, steps=2)  # of 0, π/2 and π

OF_EVERY_CASE = {
    "plain": History(),
    "functional": History(feed="functional", equals="plain"),
}
OF_EVERY_RULE = {
    "norms": History(NORMS),
    "norms-loose": History({"clip_norm": 1e9, "nonfinite": "raise"}),
    **{name: History(options) for name, options in (MIXED_OPTIONS | SUM_OPTIONS).items()},
    "clip_tensor_norm": History({"clip_tensor_norm": 2.0}),
    "clip_unit_norm": History({"clip_unit_norm": 0.02}),
    "clip_value": History({"clip_value": 0.7}),
    "coupled": History({"decay": "coupled"}),
    "decoupled": History({"decay": "decoupled"}),
    "independent": History({"decay": "independent"}),
    "cautious-decay": History({"decay": "cautious"}),
    "corrected": History({"decay": "corrected", "peak_lr": 0.4}),
    "after": History({"decay": "after"}),
    "cautious-count": History({"cautious": "count"}),
    "clip_value-pair": History({"clip_value": (-0.3, 1.2)}),
    "l1": History({"l1": 0.05}),
    "l1-proximal": History({"l1": 0.05, "l1_mode": "proximal"}),
    "ema": History({"ema_decay": 0.9}),
    "float16": History({"shadow": "float16"}),
    "bfloat16": History({"shadow": "bfloat16"}),
    "lookahead": History({"lookahead": (2, 0.4)}),
    "zero_grads": History({"zero_grads": True}),
    "maximize": History({"maximize": True}),
    "monitor": History({"monitor": True}),
    "loss_scale": History({"clip_value": 0.7, "monitor": True}, loss_scale=3.0),
    "lr-linear": History({"lr": fu.schedules.linear(0.25, 3, end=0.0625)}),
    "lr-warmup-cosine": History({"lr": fu.schedules.warmup(COSINE, 2)}),
    "lr-milestones": History({"lr": fu.schedules.multi_step(0.25, [2, 4], 0.5)}),
    "lr-function": History({"lr": halved, "ema_decay": lambda t: t / (t + 1), "weight_decay": halved}),
    "lr-set": History(before={2: raise_lr}),
    "start_at": History(before={0: lambda opt: opt.start_at(1000)}),
    "groups": History({"groups": GROUPS, "monitor": True}),
    "frozen": History({"monitor": True}, before=TRANSFER),
    "special": History({"monitor": True, "shadow": "bfloat16", "ema_decay": 0.9}, special=True),
    "special-skipped": History({**NORMS, "zero_grads": True}, special=True),
    "special-units": History({"clip_unit_norm": 0.02, "shadow": "float16"}, special=True),
    **{kind: History(feed=kind) for kind in ("mean", "sum", "accumulate")},
    **{f"{kind}-norms": History({**NORMS, "zero_grads": True}, feed=kind) for kind in ("mean", "sum", "accumulate")},
    # How arrays lie in memory, how they are handed over and where a run was interrupted leave no trace.
    **{layout: History(layout=layout, equals="plain") for layout in LAYOUTS if layout != "contiguous"},
    **{
        f"{layout}-{name}": History(options, layout=layout, equals=name)
        for layout in ("fortran", "strided", "misaligned")
        for name, options in (MIXED_OPTIONS | SUM_OPTIONS).items()
    },
    "fortran-mean": History(feed="mean", layout="fortran", equals="mean"),
    "misaligned-accumulate": History(feed="accumulate", layout="misaligned", equals="accumulate"),
    "bound": History(feed="bound", equals="plain"),
    "bound-stages": History(MIXED_OPTIONS["stages"], feed="bound", equals="stages"),
    "functional-norms": History(NORMS, feed="functional", equals="norms"),
    "resumed-sums": History(SUM_OPTIONS["sums"], feed="resumed", equals="sums"),
    "functional-cautious": History({"cautious": "count"}, feed="functional", equals="cautious-count"),
    "resumed-stages": History(MIXED_OPTIONS["stages"], feed="resumed", equals="stages"),
}
HISTORIES = {**OF_EVERY_CASE, **OF_EVERY_RULE}
COMBINATIONS = [(case, name) for case in CASES for name in HISTORIES if name in OF_EVERY_CASE or case in FIRST_CASES]
COMBINATIONS += [(case, "plain") for case in EVERY_CASE if case not in CASES]


class Run:
    """One history of one case: an optimizer, its arrays, and a running hash of all that they hold after each step."""

    def __init__(self, case: Case, dtype: Any, history: History, engine: Engine) -> None:
        self.case, self.dtype, self.history = case, dtype, history
        self.options = {**history.options, "backend": engine.select()}
        self.params = self.laid_out(tensors(0, dtype))
        self.buffers = self.laid_out(tensors(0, dtype))  # for gradients that are bound
        self.opt = case.make(self.params, **self.options)
        self.state = {name: {key: a.copy() for key, a in part.items()} for name, part in self.opt.state.items()}
        self.hash = hashlib.sha256()

    def laid_out(self, arrays: Arrays) -> Arrays:
        return {name: LAYOUTS[self.history.layout](a) for name, a in arrays.items()}

    def gradients(self, k: int, samples: int = 0) -> Arrays:
        """Those of step k, or of one of its micro-batches."""
        grads = self.laid_out(tensors(k, self.dtype, samples))
        if self.history.special and k in (2, 4):
            for j, g in enumerate(grads.values()):
                if g.ndim == 1:
                    values = np.array(SPECIAL)[(np.arange(len(g[j % 7 :: 7])) + j) % len(SPECIAL)]
                    with np.errstate(under="ignore"):
                        g[j % 7 :: 7] = values.astype(self.dtype)
        return grads

    def digest(self) -> str:
        feed = FEEDS[self.history.feed]
        for k in range(STEPS):
            self.history.before.get(k, lambda opt: None)(self.opt)
            report, left = feed(self, k + 1)
            arrays = {"params": self.params, "grads": left, **{f"state {n}": a for n, a in self.state_now().items()}}
            kept = {"ema": self.opt.ema, "shadow": self.opt.shadow}
            arrays |= {kind: part for kind, part in kept.items() if part is not None}
            for kind, part in arrays.items():
                self.add(f"{kind} {[(name, a.shape) for name, a in part.items()]}", part.values())
            self.add_report(report)
        return self.hash.hexdigest()[:16]

    def state_now(self) -> Mapping[str, Arrays]:
        return self.state if self.history.feed == "functional" else self.opt.state

    def add(self, label: str, arrays: Iterable[np.ndarray]) -> None:
        """The elements of arrays of one type, each in C order. NaN is NaN: which one, processors decide."""
        a = np.concatenate([x.ravel() for x in arrays])
        if a.dtype == np.uint16:  # bfloat16 as bits
            a[(a & 0x7FFF) > 0x7F80] = 0x7FC0
        elif a.dtype.kind == "f":
            a[np.isnan(a)] = np.nan
        self.hash.update(f"{label} {a.dtype.str}\n".encode())
        self.hash.update(a)

    def add_report(self, report: fu.Report) -> None:
        figures = (report.step, report.skipped, report.nonfinite, report.lr, report.grad_norm, report.clip_factor)
        self.hash.update(repr([None if x is None else float(x) for x in figures]).encode())
        table = report.tensors
        if table is not None:
            self.hash.update(repr([str(name) for name in table["name"]]).encode())
            for column in table.dtype.names[1:]:
                self.add(column, [table[column]])


# -- ways of handing over gradients: each takes a step and returns its report and what is left of the gradients -------

Taken = tuple[fu.Report, Arrays]


def by_step(run: Run, k: int) -> Taken:
    grads = run.gradients(k)
    return run.opt.step(grads, loss_scale=run.history.loss_scale), grads


def by_bound(run: Run, k: int) -> Taken:
    for name, g in run.gradients(k).items():
        run.buffers[name][...] = g
    if k == 1:
        run.opt.bind(run.buffers)
    return run.opt.step(), run.buffers


def by_function(run: Run, k: int) -> Taken:
    grads = run.gradients(k)
    function = getattr(fu.functional, run.case.rule)
    return function(run.params, grads, *run.state.values(), step=k, **run.case.kwargs, **run.options), grads


def by_samples(reduce: Any) -> Callable[[Run, int], Taken]:
    def step(run: Run, k: int) -> Taken:
        grads = run.gradients(k, samples=3)
        return run.opt.step(grads, reduce=reduce), grads

    return step


def by_micro_batches(run: Run, k: int) -> Taken:
    """One more of them in each step, so that some step takes a single one."""
    left: Arrays = {}
    for batch in range(k):
        grads = run.gradients(10 * k + batch)
        run.opt.accumulate(grads)
        left |= {f"{name} {batch}": g for name, g in grads.items()}
    return run.opt.step(), left


def by_resumed(run: Run, k: int) -> Taken:
    """Each step is that of a new optimizer that took over the state of the last."""
    old = run.opt
    run.opt = run.case.make(run.params, **run.options)
    run.opt.load_state_dict(old.state_dict())
    return by_step(run, k)


FEEDS: dict[str, Callable[[Run, int], Taken]] = {
    "step": by_step,
    "bound": by_bound,
    "functional": by_function,
    "mean": by_samples("mean"),
    "sum": by_samples("sum"),
    "accumulate": by_micro_batches,
    "resumed": by_resumed,
}


def hashes(case: Case, name: str, engine: Engine, dtypes: Iterable[Any] = DTYPES) -> dict[str, str]:
    """What a history of a case leaves on an engine, in each type."""
    return {dtype.__name__: Run(case, dtype, HISTORIES[name], engine).digest() for dtype in dtypes}


# -- what is expected -------------------------------------------------------------------------------------------------


@cache
def expected() -> dict[str, dict[str, str]]:
    """The hashes in float32 and float64, by case and history."""
    table: dict[str, dict[str, str]] = json.loads(FILE.read_text()) if FILE.exists() else {}
    return table


def key(case: Case, name: str) -> str:
    return f"{case} {HISTORIES[name].equals or name}"


def of_all_engines() -> dict[str, dict[str, str]]:
    """Today's hashes; an error where engines or equal histories disagree."""
    table: dict[str, dict[str, str]] = {}
    for case, name in COMBINATIONS:
        for parameter in ENGINES:
            (engine,) = parameter.values
            row = hashes(case, name, engine)
            if table.setdefault(key(case, name), row) != row:
                raise SystemExit(f"{case} {name}: {engine} leaves other bytes than the engines before it")
    return dict(sorted(table.items()))


if __name__ == "__main__":
    known, today = expected(), of_all_engines()
    for label in sorted({*known, *today}):
        if known.get(label) != today.get(label):
            print(f"{label}: {known.get(label)} → {today.get(label)}")
    if "--write" in sys.argv[1:]:
        lines = ",\n".join(f"{json.dumps(label)}: {json.dumps(row)}" for label, row in today.items())
        FILE.write_text(f"{{\n{lines}\n}}\n")
