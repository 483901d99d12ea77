"""Libraries that the tests do not install, as their sources have it: one step of each rule, in NumPy.

apex 6424da3 (csrc/multi_tensor_adam.cu, multi_tensor_sgd_kernel.cu, multi_tensor_novograd.cu and
apex/optimizers/fused_novograd.py), DeepSpeed edaa722 (csrc/adam/cpu_adam_impl.cpp), chainer a8e15cb
(chainer/optimizers/nesterov_ag.py). They share no code with fastupdate.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

Array = Any


class Written:
    """Steps a list of arrays in place; `update` is one rule for one array, with what it keeps."""

    def __init__(self, p: list[Array]) -> None:
        self.p = p
        self.t = 0
        self.kept: dict[int, dict[str, Array]] = {}

    def step(self, p: list[Array], grads: list[Array]) -> None:
        self.t += 1
        for k, (w, g) in enumerate(zip(p, grads, strict=True)):
            self.update(w, g, self.kept.setdefault(k, {}))

    def update(self, w: Array, g: Array, kept: dict[str, Array]) -> None:
        raise NotImplementedError


class CudaAdam(Written):
    """AdamFunctor: bias corrections divide m and v; the decay is a part of the update, or of the gradient."""

    def __init__(
        self, p: Any, lr: float, betas: Any = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0,
        bias_correction: bool = True, adam_w_mode: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(p)
        self.lr, (self.b1, self.b2), self.eps, self.decay = lr, betas, eps, weight_decay
        self.correct, self.decoupled = bias_correction, adam_w_mode

    def update(self, w: Array, g: Array, kept: dict[str, Array]) -> None:
        if not self.decoupled:
            g = g + self.decay * w
        kept["m"] = self.b1 * kept.get("m", 0 * g) + (1 - self.b1) * g
        kept["v"] = self.b2 * kept.get("v", 0 * g) + (1 - self.b2) * g * g
        c1, c2 = (1 - self.b1**self.t, 1 - self.b2**self.t) if self.correct else (1.0, 1.0)
        update = (kept["m"] / c1) / (np.sqrt(kept["v"] / c2) + self.eps)
        if self.decoupled:
            update = update + self.decay * w
        w -= self.lr * update


class CpuAdam(Written):
    """Adam_Optimizer::Step_1: the corrections go into the step and into √v; the decay is lr·λ of the old weight."""

    def __init__(
        self, p: Any, lr: float, betas: Any = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0,
        bias_correction: bool = True, adamw_mode: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(p)
        self.lr, (self.b1, self.b2), self.eps, self.decay = lr, betas, eps, weight_decay
        self.correct, self.decoupled = bias_correction, adamw_mode

    def update(self, w: Array, g: Array, kept: dict[str, Array]) -> None:
        c1, c2 = (1 - self.b1**self.t, 1 / np.sqrt(1 - self.b2**self.t)) if self.correct else (1.0, 1.0)
        if not self.decoupled:
            g = w * self.decay + g
        kept["m"] = kept.get("m", 0 * g) * self.b1 + g * (1 - self.b1)
        kept["v"] = kept.get("v", 0 * g) * self.b2 + g * g * (1 - self.b2)
        shrunk = w * (-self.lr * self.decay) + w if self.decoupled else w
        w[...] = kept["m"] / (np.sqrt(kept["v"]) * c2 + self.eps) * (-self.lr / c1) + shrunk


class CudaSGD(Written):
    """SGDFunctor, wd_after_momentum=False: the first step fills the buffer undamped."""

    def __init__(
        self, p: Any, lr: float, momentum: float = 0.0, dampening: float = 0.0, weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(p)
        self.lr, self.mu, self.damp, self.decay, self.nesterov = lr, momentum, dampening, weight_decay, nesterov

    def update(self, w: Array, g: Array, kept: dict[str, Array]) -> None:
        g = g + self.decay * w
        if self.mu:
            kept["b"] = kept["b"] * self.mu + (1 - self.damp) * g if "b" in kept else g
            g = g + self.mu * kept["b"] if self.nesterov else kept["b"]
        w += -self.lr * g


class DeepSpeedLamb(Written):
    """csrc/lamb/fused_lamb_cuda_kernel.cu: ‖w‖/‖step‖ is kept within two limits, the decay being a part of the step."""

    def __init__(
        self, p: Any, lr: float = 1e-3, betas: Any = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0,
        max_coeff: float = 10.0, min_coeff: float = 0.01,
    ) -> None:  # fmt: skip
        super().__init__(p)
        self.lr, (self.b1, self.b2), self.eps, self.decay = lr, betas, eps, weight_decay
        self.most, self.least = max_coeff, min_coeff

    def update(self, w: Array, g: Array, kept: dict[str, Array]) -> None:
        kept["m"] = self.b1 * kept.get("m", 0 * g) + (1 - self.b1) * g
        kept["v"] = self.b2 * kept.get("v", 0 * g) + (1 - self.b2) * g * g
        m, v = kept["m"] / (1 - self.b1**self.t), kept["v"] / (1 - self.b2**self.t)
        step = m / (np.sqrt(v) + self.eps) + self.decay * w
        length, step_length = (float(np.sqrt(np.sum(np.float64(x) ** 2))) for x in (w, step))
        coeff = min(max(length / step_length, self.least), self.most) if length and step_length else 1.0
        w -= self.lr * coeff * step


class DeepSpeedLion(Written):
    """csrc/lion/cpu_lion_impl.cpp, Step_1: the sign is that of the bit, so that where there is nothing weights move."""

    def __init__(self, p: Any, lr: float = 1e-3, betas: Any = (0.9, 0.99), weight_decay: float = 0.0) -> None:
        super().__init__(p)
        self.lr, (self.b1, self.b2), self.decay = lr, betas, weight_decay

    def update(self, w: Array, g: Array, kept: dict[str, Array]) -> None:
        m = kept.get("m", 0 * g)
        c = m * self.b1 + g * (1 - self.b1)
        w[...] = w * (1 - self.lr * self.decay) + -np.copysign(w.dtype.type(self.lr), c)
        kept["m"] = m * self.b2 + g * (1 - self.b2)


class ChainerNesterov(Written):
    """NesterovAGRule.update_core_cpu, with WeightDecay: the velocity has moved when it is looked along."""

    def __init__(self, p: Any, lr: float, momentum: float = 0.9, weight_decay: float = 0.0) -> None:
        super().__init__(p)
        self.lr, self.mu, self.decay = lr, momentum, weight_decay

    def update(self, w: Array, g: Array, kept: dict[str, Array]) -> None:
        g = g + self.decay * w
        v = kept["v"] = self.mu * kept.get("v", 0 * g) - self.lr * g
        w += self.mu * self.mu * v - (1 + self.mu) * self.lr * g


class CudaNovoGrad(Written):
    """NovoGradFunctor, norm_type=2: a mean of squared norms that starts from the first one, and two moment modes."""

    def __init__(
        self, p: Any, lr: float = 1e-3, bias_correction: bool = True, betas: Any = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.0, reg_inside_moment: bool = False, grad_averaging: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(p)
        self.lr, (self.b1, self.b2), self.eps, self.decay = lr, betas, eps, weight_decay
        self.correct, self.inside = bias_correction, reg_inside_moment
        self.b3 = 1 - self.b1 if grad_averaging else 1.0

    def update(self, w: Array, g: Array, kept: dict[str, Array]) -> None:
        norm = np.sqrt(np.square(g).sum())
        kept["norm"] = np.sqrt(self.b2 * kept.get("norm", norm) ** 2 + (1 - self.b2) * norm**2)
        c1, c2 = (1 - self.b1**self.t, np.sqrt(1 - self.b2**self.t)) if self.correct else (1.0, 1.0)
        length = kept["norm"] / c2 + self.eps
        if self.inside:
            g = g / length + self.decay * w
        m = kept["m"] = self.b1 * kept.get("m", 0 * g) + self.b3 * g
        w -= self.lr * (m / c1 if self.inside else m / c1 / length + self.decay * w)


apex = SimpleNamespace(optimizers=SimpleNamespace(FusedAdam=CudaAdam, FusedSGD=CudaSGD, FusedNovoGrad=CudaNovoGrad))
deepspeed = SimpleNamespace(
    ops=SimpleNamespace(
        adam=SimpleNamespace(DeepSpeedCPUAdam=CpuAdam),
        lamb=SimpleNamespace(FusedLamb=DeepSpeedLamb),
        lion=SimpleNamespace(DeepSpeedCPULion=DeepSpeedLion),
    )
)
