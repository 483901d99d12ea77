"""What each option costs beside a plain step, and what the bytes that it moves predict."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from bench.contestants import Fastupdate
from bench.workloads import Workload

PLAIN = 28  # bytes per float32 parameter of AdamW: p, g, m, v are read, p, m, v are written
LOOKAHEAD_EVERY = 5
STEPS = LOOKAHEAD_EVERY  # in each timed run, so that every run has one synchronising step


@dataclass(frozen=True)
class Option:
    """An option, and the bytes per parameter that it adds: a store to a line that was not read also reads it."""

    name: str
    extra: float
    why: str
    options: dict[str, Any] = field(default_factory=dict)
    loss_scale: float = 1.0

    @property
    def predicted(self) -> float:
        """Time over the plain step's, if memory traffic were all."""
        return (PLAIN + self.extra) / PLAIN


EVERYTHING: dict[str, Any] = {"clip_norm": 1.0, "ema_decay": 0.999, "shadow": "bfloat16", "zero_grads": True}

OPTIONS = (
    Option("plain, again", 0, "the noise of this table"),
    Option("loss_scale", 0, "folded into a scalar", loss_scale=4.0),
    Option("maximize", 0, "folded into a scalar", {"maximize": True}),
    Option("clip_value", 0, "arithmetic", {"clip_value": 0.01}),
    Option("l1", 0, "arithmetic", {"l1": 1e-4}),
    Option("l1 proximal", 0, "arithmetic", {"l1": 1e-4, "l1_mode": "proximal"}),
    Option("decay coupled", 0, "arithmetic", {"decay": "coupled"}),
    Option("decay independent", 0, "arithmetic", {"decay": "independent"}),
    Option("decay cautious", 0, "arithmetic", {"decay": "cautious"}),
    Option("cautious", 0, "arithmetic", {"cautious": True}),
    Option("cautious mean", 16, "reads g, p, m and v first", {"cautious": "mean"}),
    Option("trust_ratio", 16, "reads g, p, m and v first", {"trust_ratio": True}),
    Option("keep_norm", 16, "reads g, p, m and v first", {"keep_norm": True}),
    Option("centralize", 4, "reads g first", {"centralize": True}),
    Option("optimism", 8, "reads and writes the gradient before", {"optimism": 0.1}),
    Option("optimism_norm", 16, "the same, and reads both first", {"optimism": 0.1, "optimism_norm": 1.0}),
    Option("clip_norm", 4, "reads g first", {"clip_norm": 1.0}),
    Option("clip_tensor_norm", 4, "reads g first", {"clip_tensor_norm": 1.0}),
    Option("clip_unit_norm", 8, "reads g and p first", {"clip_unit_norm": 0.01}),
    Option("nonfinite skip", 4, "reads g first", {"nonfinite": "skip"}),
    Option("ema_decay", 8, "reads and writes the average", {"ema_decay": 0.999}),
    Option("shadow bfloat16", 4, "writes 2, and reads the line to write it", {"shadow": "bfloat16"}),
    Option("shadow float16", 4, "writes 2, and reads the line to write it", {"shadow": "float16"}),
    Option(
        "lookahead",
        8 / LOOKAHEAD_EVERY,
        f"reads and writes the slow weights, every {LOOKAHEAD_EVERY} steps",
        {"lookahead": (LOOKAHEAD_EVERY, 0.5)},
    ),
    Option("zero_grads", 4, "writes g, which has been read", {"zero_grads": True}),
    Option("monitor", 0, "arithmetic", {"monitor": True}),
    Option("clip_norm, ema_decay, shadow, zero_grads", 20, "the sum", EVERYTHING),
    Option("… and monitor", 20, "the sum", {**EVERYTHING, "monitor": True}),
)


def with_option(option: Option) -> type[Fastupdate]:
    """fastupdate's AdamW with an option; its gradients are refilled before each timed run."""

    class WithOption(Fastupdate):
        name = option.name
        note = option.why
        comparable = False
        options: ClassVar = option.options

        def __init__(self, workload: Workload, threads: int) -> None:
            super().__init__(workload, threads)
            self.filled = workload.gradients()
            if option.loss_scale != 1.0:
                self.step = lambda: self.optimizer.step(loss_scale=option.loss_scale)

        def before(self, steps: int) -> None:
            for g, filled in zip(self.grads, self.filled, strict=True):
                np.copyto(g, filled)

    return WithOption
