"""What the files in tests/data were written from, one by each version of the format: `make().save(path)`.

Such a file is written once, by the last commit of its version, and then loads for ever.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import fastupdate as fu


def params() -> dict[str, Any]:
    return {
        "layers": [
            {"w": np.linspace(-1, 2, 6, dtype=np.float32).reshape(2, 3), "b": np.linspace(1, 3, 3)},
            {"w": np.linspace(-2, 1, 4, dtype=np.float32).reshape(2, 2).T, "b": np.array(0.5)},
        ],
        "empty": np.zeros((0, 2), np.float32),
    }


def fresh() -> fu.Optimizer:
    """The optimizer before its first step."""
    return fu.AdamW(
        params(),
        lr=fu.schedules.plateau(0.1, patience=1),
        ema_decay=0.75,
        shadow="bfloat16",
        lookahead=(2, 0.5),
        groups=[{"params": "*.b", "weight_decay": 0.0, "lr": 0.25}, {"params": "empty", "frozen_until": 7}],
    )


def make() -> fu.Optimizer:
    """Three steps, one frozen tensor, a micro-batch."""
    opt = fresh()
    opt.step(params())
    opt.groups[0]["lr"].update(1.5)
    opt.step(params())
    opt.freeze("layers.1.w")
    opt.groups[1]["lr"] = 0.125
    opt.step(params())
    opt.accumulate(params())
    return opt
