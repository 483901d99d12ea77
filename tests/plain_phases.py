"""A rule with phases in plain NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from cases import Case
from reference import fold, folded, ordered_sum, ordered_sums

from fastupdate.rules.extent import shape_of


def units_of(p: np.ndarray) -> int:
    return len(p) if p.ndim > 1 else 1


def maxima_of(terms: np.ndarray, rows: int, columns: int) -> dict[str, Any]:
    """The largest terms of one tensor over each extent."""
    flat = terms.reshape(-1, rows, columns).astype(np.float64) if terms.size else np.zeros((0, rows, columns))
    axes = {"row": 2, "column": 1, "matrix": (1, 2), "tensor": (0, 1, 2)}
    return {extent: flat.max(axis, initial=0.0).reshape(-1) for extent, axis in axes.items()}


def sums_of(terms: np.ndarray, rows: int, columns: int, extents: Any, largest: bool) -> dict[str, Any]:
    """What terms of one tensor add up to over each extent, in the defined order; or the largest of them."""
    if largest:
        return maxima_of(terms, rows, columns)
    units = units_of(terms)
    flat = terms.reshape(-1, rows, columns).astype(np.float64) if terms.size else np.zeros((0, rows, columns))
    by_row = ordered_sums(flat.reshape(-1, columns)) if flat.size else np.zeros(flat.size)
    by_rows = bool({"row", "column", "matrix", "unit"} & set(extents))
    chunks = [[np.add.accumulate(m[k : k + 32])[-1] for k in range(0, rows, 32)] for m in flat]
    return {
        "row": by_row,
        "column": np.concatenate([np.zeros(0), *map(folded, chunks)]),
        "matrix": np.array([fold(by_row[k * rows : (k + 1) * rows]) for k in range(len(flat))]),
        "unit": np.array([fold(part) for part in by_row.reshape(units, -1)]) if units else by_row,
        "tensor": fold(by_row) if by_rows else ordered_sum(terms),
    }


class Plain:
    """A rule with phases on whole arrays, from its functions and the description of sums alone."""

    def __init__(self, case: Case, params: list[np.ndarray]) -> None:
        like = case.make([np.zeros((1, 1))])
        self.rule, self.flags = like.rule, like.rule.flag_tuple(like.stepper.flags)
        self.values = {k: v for k, v in like.groups[0].items() if k != "params"}
        self.params, self.t = params, 0
        self.states = [[self.start(name, p) for name in self.rule.states] for p in params]

    def start(self, name: str, p: np.ndarray) -> Any:
        extent, start = self.rule.extents[name], self.rule.starts[name]
        value = {"p": p, "ndim": p.ndim}.get(start, self.values.get(start, start))
        kind = p.dtype if extent == "element" else np.float64
        return np.full(shape_of(extent, p.shape), 0, kind) + np.asarray(value, kind)

    def spread(self, k: int) -> list[Any]:
        """The states of tensor k as functions of elements take them."""
        p = self.params[k]
        axes = {"row": -1, "column": -2, "matrix": (-2, -1)}
        shown = []
        for name, state in zip(self.rule.states, self.states[k], strict=True):
            extent = self.rule.extents[name]
            if extent in axes and p.ndim > 1:
                state = np.expand_dims(state, axes[extent])
            elif extent in axes and (p.ndim == 0 or extent != "row"):
                state = state.reshape(())
            elif extent == "unit" and p.ndim > 1:
                state = state.reshape(-1, *[1] * (p.ndim - 1))
            shown.append(state if extent == "element" else state.astype(p.dtype))
        return shown

    def settle(self, phase: Any, sums: list[Any], extent: str, k: int, n: float) -> None:
        own = [i for i, name in enumerate(self.rule.states) if self.rule.extents[name] == extent]
        s = self.rule.prepare(self.values, self.t)
        s = type(s)(*map(np.float64, s))
        given = [self.states[k][i].reshape(-1) for i in own]
        taken = [np.asarray(sums[j]).reshape(-1) for j in phase.summed(extent)]
        with np.errstate(all="ignore"):
            results = phase.settles[extent](self.flags, s, np.float64(n), *taken, *given)
        for i, result in zip(own, results if isinstance(results, tuple) else (results,), strict=True):
            self.states[k][i] = np.array(result).reshape(self.states[k][i].shape)

    def step(self, grads: list[np.ndarray]) -> None:
        self.t += 1
        for phase in self.rule.phases:
            totals = []
            for k, (p, g) in enumerate(zip(self.params, grads, strict=True)):
                rows, columns = (p.shape if p.ndim > 1 else (p.size, 1) if p.ndim else (1, 1))[-2:]
                sizes = {"row": columns, "column": rows, "matrix": rows * columns, "tensor": p.size}
                sizes["unit"] = p.size // max(units_of(p), 1)
                terms = self.measure(phase, k, g) if phase.measure else []
                kinds = [total.largest for total in phase.sums.values()]
                pairs = zip(terms, kinds, strict=True)
                summed = [sums_of(x, rows, columns, phase.settles, largest) for x, largest in pairs]
                totals.append([found["tensor"] for found in summed])
                for extent in phase.settles if p.size else ():
                    if extent != "list":
                        self.settle(phase, [found[extent] for found in summed], extent, k, sizes[extent])
            if "list" in phase.settles:
                sums = [fold(column) for column in zip(*totals, strict=True)]
                for k in range(len(self.params)):
                    self.settle(phase, sums, "list", k, sum(p.size for p in self.params))
        for k, (p, g) in enumerate(zip(self.params, grads, strict=True)):
            delta, *new = self.rule.update(self.flags, self.scalars(p), g, p, *self.spread(k))
            self.take(k, new)
            p += delta

    def scalars(self, p: np.ndarray) -> Any:
        s = self.rule.prepare(self.values, self.t)
        return type(s)(*map(p.dtype.type, s))

    def measure(self, phase: Any, k: int, g: np.ndarray) -> list[np.ndarray]:
        p = self.params[k]
        results = phase.measure(self.flags, self.scalars(p), g, p, *self.spread(k))
        results = results if isinstance(results, tuple) else (results,)
        self.take(k, results[len(phase.sums) :])
        if self.rule.matrix is not None and phase is self.rule.phases[0]:
            [name] = self.rule.matrix_states
            at = self.rule.states.index(name)
            s = self.rule.prepare(self.values, self.t)
            self.states[k][at] = np.asarray(self.rule.matrix(self.flags, s, self.states[k][at]))
        return [np.broadcast_to(x, p.shape) for x in results[: len(phase.sums)]]

    def take(self, k: int, new: Any) -> None:
        element = [i for i, name in enumerate(self.rule.states) if self.rule.extents[name] == "element"]
        for i, state in zip(element, new, strict=True):
            self.states[k][i] = np.array(state, self.params[k].dtype)
