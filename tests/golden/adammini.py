"""Beside pytorch_optimizer's Adam-mini, which takes a model and tells blocks by the names of its parameters."""

from __future__ import annotations

from typing import Any

from peers import peer

from golden import Arrays, Golden
from golden.peers import Exact, named

WIDTH = 16  # of rows, where a head is one


class OfModel(Exact):
    """An optimizer over a model whose parameters all have names that end alike."""

    def __init__(self, ending: str, **arguments: Any) -> None:
        super().__init__("pytorch_optimizer", "AdamMini", **arguments)
        self.ending = ending

    def make(self, groups: list[dict[str, Any]]) -> Any:
        torch = peer("torch")
        model = torch.nn.Module()
        for k, weight in enumerate(self.weights):
            block = torch.nn.Module()
            block.register_parameter("weight", weight)
            model.add_module(f"{k}_{self.ending}", block)
        return named(self.of).AdamMini(model, **self.arguments)


class OfHeads(OfModel):
    """Ours is given a view of each weight whose rows are heads."""

    def start(self, params: Arrays) -> None:
        super().start([p.reshape(-1, WIDTH) for p in params])

    def step(self, grads: Arrays) -> Arrays:
        weights = super().step([g.reshape(-1, WIDTH) for g in grads])
        return [w.reshape(g.shape) for w, g in zip(weights, grads, strict=True)]


ARGUMENTS = {"lr": 0.01, "betas": (0.85, 0.97), "eps": 1e-2, "weight_decay": 0.3}

ROWS = {
    "whole": Golden(
        ARGUMENTS | {"whole": True},
        OfModel("mlp", **ARGUMENTS),
        (1, 7, 1025, (3, 5), (33, 32), (2, 3, 5)),
    ),
    "rows": Golden(
        ARGUMENTS,
        OfModel("q_proj", num_embeds=WIDTH, num_heads=WIDTH, **ARGUMENTS),
        ((1, WIDTH), (16, WIDTH), (33, WIDTH)),
    ),
    "heads": Golden(
        ARGUMENTS,
        OfHeads("k_proj", num_embeds=WIDTH, num_heads=4, **ARGUMENTS),
        ((4, 4 * WIDTH), (8, 4 * WIDTH)),
    ),
    "vectors": Golden(ARGUMENTS, OfModel("mlp", **ARGUMENTS), (1, 7, 1025)),
}
