"""A whole step in plain NumPy, whole arrays at a time: what every backend must reproduce bit for bit.

The rule's own arithmetic is its readable form (`Rule.update`), which test_rules.py compares with torch, Keras and
optax; everything around it is written here from the description of a step, and shares no code with the engines.
In a wider dtype than the parameters' it is the reference for accuracy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from cases import Case

LANES, BLOCK = 32, 1024


def folded(values: Any) -> Any:
    """Neighbours first, then neighbouring pairs, an odd one out moving up. Of arrays, element by element."""
    values = list(values)
    while len(values) > 1:
        pairs = [values[k] + values[k + 1] for k in range(0, len(values) - 1, 2)]
        values = pairs + values[len(values) & ~1 :]
    return values[0] if values else 0.0


def fold(values: Any) -> float:
    return float(folded(values))


def ordered_sums(rows: np.ndarray) -> np.ndarray:
    """The sum of each row, in the defined order: 32 lanes in each block of 1024, lane j taking j, j + 32, …; lanes and
    blocks fold pairwise."""
    count, length = rows.shape
    block = min(BLOCK, -(-length // LANES) * LANES) or BLOCK  # what a short row has no terms for adds nothing
    number = -(-length // block)
    terms = np.zeros((count, number * block))
    terms[:, :length] = rows
    blocks = terms.reshape(count, number, block // LANES, LANES)
    lanes = np.zeros((count, number, LANES))
    for k in range(blocks.shape[2]):
        lanes = lanes + blocks[:, :, k]
    while lanes.shape[2] > 1:  # lane j takes lane j + half
        half = lanes.shape[2] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return np.zeros(count) + folded(lanes[:, :, 0].T)


def ordered_sum(terms: np.ndarray) -> float:
    return float(ordered_sums(terms.reshape(1, -1))[0])


def centre(g: np.ndarray) -> np.ndarray:
    """The mean of each slice along the first axis: rows of the last axis sum in order, and fold pairwise."""
    rows = g.astype(np.float64).reshape(len(g), -1, g.shape[-1])
    sums = [fold(ordered_sums(part)) for part in rows]
    return np.array(sums).reshape((-1,) + (1,) * (g.ndim - 1)) / (g.size / len(g))


def sum_of_squares(x: np.ndarray) -> float:
    return ordered_sum(np.square(x.astype(np.float64)))


def narrowed(p: np.ndarray, kind: str) -> np.ndarray:
    """float16, or bfloat16 as bits, each by way of float32 and rounded to nearest even."""
    x = np.asarray(p.astype(np.float32))
    if kind == "float16":
        return x.astype(np.float16)
    u = x.view(np.uint32).astype(np.int64)
    rounded = (u + 0x7FFF + (u >> 16 & 1)) >> 16
    return np.where(np.isnan(x), u >> 16 | 0x40, rounded).astype(np.uint16)


def starts_of(rule: Any, hypers: Any) -> list[Any]:
    """What the states of a rule start from: numbers, or "p"."""
    starts = (rule.starts[name] for name in rule.states)
    return [start if start == "p" or not isinstance(start, str) else hypers[start] for start in starts]


def started(p: np.ndarray, starts: list[Any]) -> list[np.ndarray]:
    return [p.copy() if isinstance(start, str) else np.full_like(p, start) for start in starts]


class Tensor:
    """What belongs to one parameter; unit_factor is a column that scales slices along the first axis."""

    def __init__(self, p: np.ndarray, dtype: Any, starts: list[Any]) -> None:
        self.p = np.array(p, dtype, order="C")
        self.states = started(self.p, starts)
        self.slow = self.ema = self.shadow = self.p
        self.previous = np.full_like(self.p, np.nan)
        self.raw = self.p
        self.scale = self.clip_factor = 1.0
        self.unit_factor = np.ones(1)


class Reference:
    """The steps of one optimizer. `dtype`: compute in it, instead of in each parameter's own type."""

    def __init__(self, case: Case, params: list[np.ndarray], dtype: Any = None, **options: Any) -> None:
        like = case.make([np.zeros(1)], **options)
        self.rule, self.flags = like.rule, like.rule.flag_tuple(like.stepper.flags)
        self.kept = like.rule.kept(like.stepper.flags)
        self.values = {key: value for key, value in like.groups[0].items() if key != "params"}
        self.s = like.stepper.settings
        starts = starts_of(self.rule, self.values)
        self.tensors = [Tensor(p, dtype or p.dtype, starts) for p in params]
        for tensor in self.tensors if self.s.shadow else []:
            with np.errstate(over="ignore"):
                tensor.shadow = narrowed(tensor.p, self.s.shadow)
        self.t = 0
        self.grad_norm: float | None = None
        self.clip_factor = 1.0

    @property
    def params(self) -> list[np.ndarray]:
        return [tensor.p for tensor in self.tensors]

    def step(self, grads: list[np.ndarray], loss_scale: float = 1.0, reduce: str | None = None) -> bool:
        """Whether the step was taken."""
        scale = 1.0 / loss_scale
        with np.errstate(all="ignore"):
            for tensor, g in zip(self.tensors, grads, strict=True):
                self._take(tensor, g, reduce)
            if not self._condition(scale):
                return False
            self.t += 1
            total = scale * self.clip_factor * (-1.0 if self.s.maximize else 1.0)
            for tensor in self.tensors:
                self._update(tensor, total)
        return True

    def _take(self, tensor: Tensor, g: np.ndarray, reduce: str | None) -> None:
        tensor.raw = np.asarray(g).astype(tensor.p.dtype)
        tensor.scale = 1.0
        if reduce is not None:
            samples = tensor.raw
            tensor.raw = samples[0]
            for sample in samples[1:]:
                tensor.raw = tensor.raw + sample
            tensor.scale = 1.0 / len(samples) if reduce == "mean" else 1.0

    def _condition(self, scale: float) -> bool:
        """Norms, clipping and the policy on non-finite gradients; whether the step goes on."""
        if self.s.needs_sums and not self._judge(scale):
            return False
        for tensor in self.tensors if self.s.clip_unit_norm is not None else []:
            tensor.unit_factor = self._unit_factors(tensor, scale)
        for tensor in self.tensors:
            tensor.scale *= tensor.clip_factor
        return True

    def _judge(self, scale: float) -> bool:
        s, tensors = self.s, self.tensors
        squares = [sum_of_squares(tensor.raw) for tensor in tensors]
        scaled = [square * np.square(tensor.scale) for square, tensor in zip(squares, tensors, strict=True)]
        self.grad_norm = scale * float(np.sqrt(fold(scaled)))
        if s.nonfinite == "skip" and not all(np.isfinite(tensor.raw).all() for tensor in tensors):
            return False
        if s.clip_norm is not None:
            self.clip_factor = float(np.minimum(1.0, s.clip_norm / (self.grad_norm + 1e-6)))
        if s.clip_tensor_norm is not None:
            for tensor, square in zip(tensors, squares, strict=True):
                norm = float(np.sqrt(square)) * tensor.scale * scale
                tensor.clip_factor = float(np.minimum(1.0, s.clip_tensor_norm / (norm + 1e-6)))
        return True

    def _unit_factors(self, tensor: Tensor, scale: float) -> np.ndarray:
        g, p = tensor.raw, tensor.p
        units = len(g) if g.ndim > 1 else 1
        rows = (x.astype(np.float64).reshape(units, g.size // max(units, 1)) for x in (g, p))
        of_gradient, of_weight = (np.sqrt(ordered_sums(np.square(x))) for x in rows)
        limit = self.s.clip_unit_norm * np.maximum(of_weight, 1e-3)
        factors = np.minimum(1.0, limit / (of_gradient * (scale * tensor.scale)))
        return factors.reshape((-1,) + (1,) * max(g.ndim - 1, 0))

    def _update(self, tensor: Tensor, total: float) -> None:
        v, kind = self.values, tensor.p.dtype.type
        p, lr = tensor.p, v["lr"] * v["lr_scale"]
        factor = (total * tensor.scale) * tensor.unit_factor
        split = (np.abs(factor) < 2.0**-126) & (p.dtype == np.float32)  # two factors, where float32 has not all digits
        first, second = np.where(split, 2.0**-126, factor), np.where(split, factor * 2.0**126, 1.0)
        g = (tensor.raw * first.astype(p.dtype) * second.astype(p.dtype)).reshape(p.shape)
        low, high = (kind(np.clip(v[name], -v["clip_value"], v["clip_value"])) for name in ("clip_low", "clip_high"))
        g = np.where(g > high, high, np.where(g < low, low, g))
        if self.s.centralize and g.ndim > 1 and g.size:
            g = g - centre(g).astype(g.dtype)
        if self.s.optimism is not None:
            first = np.isnan(tensor.previous)
            g, tensor.previous = np.where(first, g, g + kind(v["optimism"]) * (g - tensor.previous)), g
        if self.s.optimism_norm is not None:
            squares = ordered_sum((g * g).astype(np.float64))
            g = g * kind(1.0 / max(1.0, np.sqrt(squares) / v["optimism_norm"]))
        hyper = {name: v[name] for name in self.rule.hypers} | {"lr": lr}
        mode = self.s.decay_mode(self.rule) if self.s.has_extra_decay(self.rule) else None
        decay = hyper["weight_decay"] if mode else 0.0
        if mode:
            hyper["weight_decay"] = 0.0
        l2 = decay if mode == "coupled" else 0.0
        l1 = v["l1"] if self.s.l1_mode == "subgradient" else 0.0
        if l1 or l2:
            sign = (p > 0).astype(kind) - (p < 0).astype(kind)
            g = g + (kind(l2) * p + kind(l1) * sign)
        shrinks = {"decoupled": lr * decay, "independent": decay, "corrected": lr * (lr / v["peak_lr"]) * decay}
        if mode in shrinks:
            p = p * kind(1.0 - shrinks[mode])
        delta = self._rule(tensor, hyper, g, p)
        if self.s.cautious:
            against = ((delta > 0) & (g < 0)) | ((delta < 0) & (g > 0))
            delta = np.where(against, delta, delta * kind(0))
            n, taken = delta.size, np.count_nonzero(against)
            by = {"count": n / (taken + 1), "mean": 1.0 / max(taken / max(n, 1), 1e-3)}
            delta = delta * kind(by.get(self.s.cautious, 1.0))
        if self.s.trust_ratio:
            moved, weights = (np.sqrt(ordered_sum((x * x).astype(np.float64))) for x in (delta, p))
            delta = delta * kind(lr * (weights / moved) if moved > 0 and weights > 0 else 1.0)
        if mode == "cautious":
            away = ((delta > 0) & (p > 0)) | ((delta < 0) & (p < 0))
            delta = np.where(away, delta, delta - kind(lr * decay) * p)
        if mode == "after":
            delta = delta - kind(lr * decay) * (p + delta)
        if self.s.keep_norm and p.ndim > 1:
            weights, moved = (np.sqrt(ordered_sum((x * x).astype(np.float64))) for x in (p, p + delta))
            before = weights / abs(1.0 - shrinks.get(mode, 0.0))
            delta = (p + delta) * kind(before / moved if moved > 0 and weights > 0 else 1.0) - p
        p = p + delta
        tensor.p = self._after(tensor, p, kind, lr)

    def _rule(self, tensor: Tensor, hyper: dict[str, float], g: np.ndarray, p: np.ndarray) -> np.ndarray:
        prepared = self.rule.prepare(hyper, self.t)
        scalars = type(prepared)(*map(p.dtype.type, prepared))
        delta, *states = self.rule.update(self.flags, scalars, g, p, *tensor.states)
        for k, name in enumerate(self.rule.states):
            if name in self.kept:
                tensor.states[k] = states[k]
        return delta

    def _after(self, tensor: Tensor, p: np.ndarray, kind: Any, lr: float) -> np.ndarray:
        s, v = self.s, self.values
        if s.l1_mode == "proximal" and v["l1"]:
            threshold = kind(lr * v["l1"])
            outside = np.where(p > threshold, p - threshold, np.where(p < -threshold, p + threshold, p))
            p = np.where((p >= -threshold) & (p <= threshold), kind(0), outside)
        if s.lookahead is not None and self.t % s.lookahead[0] == 0:
            tensor.slow = p = tensor.slow + kind(s.lookahead[1]) * (p - tensor.slow)
        if s.ema_decay is not None:
            tensor.ema = tensor.ema + kind(1.0 - v["ema_decay"]) * (p - tensor.ema)
        if s.shadow is not None:
            tensor.shadow = narrowed(p, s.shadow)
        return p

    def arrays(self) -> dict[str, list[np.ndarray]]:
        """As cases.arrays_of."""
        states = {
            f"state {name}": [tensor.states[k] for tensor in self.tensors]
            for k, name in enumerate(self.rule.states)
            if name in self.kept
        }
        on = {"slow": self.s.lookahead, "ema": self.s.ema_decay, "shadow": self.s.shadow, "previous": self.s.optimism}
        extra = {kind: [getattr(t, kind) for t in self.tensors] for kind, option in on.items() if option is not None}
        return {"params": self.params, **states, **extra}
