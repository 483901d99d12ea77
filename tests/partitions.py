"""A tree of parameters and the rules of its partition."""

from __future__ import annotations

import numpy as np
from cases import fingerprint

import fastupdate as fu

RULES = [
    ("embed", fu.SGD.with_(lr=0.1, momentum=0.9)),
    ("*.w", fu.Lamb.with_(lr=fu.schedules.cosine(0.02, steps=9), weight_decay=0.1)),
    ("*", fu.AdamW.with_(lr=0.01)),
]
RULE_OF = {"embed": "SGD", "layers.0.w": "Lamb", "layers.1.w": "Lamb", "layers.0.b": "AdamW", "layers.1.b": "AdamW"}


def tree(seed, dtype=np.float32):
    rng = np.random.default_rng(seed)

    def some(*shape):
        return rng.standard_normal(shape).astype(dtype) + dtype(0.1)

    return {"embed": some(7, 4), "layers": [{"w": some(5, 4), "b": some(5)} for _ in range(2)]}


def flat(params):
    return {
        "embed": params["embed"],
        **{f"layers.{k}.{n}": layer[n] for k, layer in enumerate(params["layers"]) for n in "wb"},
    }


def partition(params, rules=RULES, **options):
    return fu.Partition(params, rules, **options)


def prints(opt):
    return [fingerprint(part) for part in opt.parts]
