"""Where two rules of one name, or one idea, go different ways: how far apart they are, as docs/peers.md says too."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from golden import Arrays, Peer
from golden.peers import Around, Optax, Torch, Written, falling
from written_peers import apex

from fastupdate import rules

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "peers.md").read_text(encoding="utf-8")


class Data(NamedTuple):
    """What both start from, and the gradients of each step."""

    weights: Arrays
    grads: list[Arrays]


def normal(*shapes: tuple[int, ...], steps: int = 12) -> Data:
    rng = np.random.default_rng(0)
    weights, *grads = ([rng.standard_normal(shape) for shape in shapes] for _ in range(1 + steps))
    return Data(weights, grads)


VECTORS, MATRICES, CUBES = normal((4, 3), (5,)), normal((4, 3), (6, 5)), normal((2, 3, 4))
ONES = Data([np.ones(1)], [[np.ones(1)]] * 4)


class Ours:
    """A rule of ours in a peer's place."""

    def __init__(self, rule: str, **arguments: Any) -> None:
        self.rule, self.arguments = rule, arguments

    def start(self, params: Arrays) -> None:
        self.weights = [p.copy() for p in params]
        self.optimizer = rules.get(self.rule)(self.weights, **self.arguments)

    def step(self, grads: Arrays) -> Arrays:
        self.optimizer.step(grads)
        return self.weights


class Heads(Ours):
    """A rule of ours for both halves of each matrix."""

    def start(self, params: Arrays) -> None:
        self.weights = [p.copy() for p in params]
        self.optimizer = rules.get(self.rule)(halves(self.weights), **self.arguments)

    def step(self, grads: Arrays) -> Arrays:
        self.optimizer.step(halves(grads))
        return self.weights


def halves(matrices: Arrays) -> Arrays:
    return [half for matrix in matrices for half in matrix.reshape(2, -1, matrix.shape[1])]


class Apart(NamedTuple):
    """A rule of ours, the one that is unlike it and its name, how far apart the most distant weights end, and why."""

    rule: str
    arguments: dict[str, Any]
    named: str
    theirs: Peer
    figure: float
    why: str
    data: Data = VECTORS


def tenfold_lower(t: int) -> float:
    return (0.1, 0.1, 0.01, 0.01)[t]


ADAMW = {"lr": 0.01, "weight_decay": 0.1}
DIFFERENCES = {
    "SGD, momentum": Apart(
        "sgd",
        {"lr": tenfold_lower, "momentum": 0.9},
        "`fu.Momentum`",
        Ours("momentum", lr=tenfold_lower, beta=0.9),
        0.292,
        "its velocity holds the learning rates of past steps: under 0.1, 0.1, 0.01, 0.01 and gradients of 1, a weight "
        "goes from 1 to 0.3561, SGD's to 0.6485",
        ONES,
    ),
    "SGD, nesterov": Apart(
        "sgd",
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
        "bitsandbytes",
        Torch("bitsandbytes.optim", "SGD", lr=0.1, momentum=0.9, nesterov=True),
        0.402,
        "it takes no notice of `nesterov`",
    ),
    "Adam, decayed": Apart(
        "adam",
        ADAMW,
        "bitsandbytes",
        Torch("bitsandbytes.optim", "Adam", **ADAMW),
        0.0255,
        "it decays as AdamW does",
    ),
    "Adam, amsgrad": Apart(
        "adam",
        {"lr": 0.01, "amsgrad": True},
        "optax",
        Optax(lambda o: o.amsgrad(0.01)),
        0.0127,
        "it takes the largest corrected v, as with `corrected_max`, torch and fastupdate the largest v",
    ),
    "AdaBelief": Apart(
        "adabelief",
        {"lr": 0.01},
        "timm",
        Torch("timm.adabelief", "AdaBelief", lr=0.01),
        0.0480,
        "it rectifies, as with `rectify`, unless told not to",
    ),
    "Adan": Apart(
        "adan",
        {"lr": 0.01},
        "optax",
        Optax(lambda o: o.adan(0.01)),
        0.0272,
        "it has 1 − β₂ where the paper has β₂, as with `damped_change`",
    ),
    "LaProp": Apart(
        "laprop",
        {"lr": falling(0.01)},
        "timm",
        Torch("timm.laprop", "LaProp", lr=0.01, weight_decay=0.0),
        0.00565,
        "it weighs steps by their learning rates, here falling, as with `lr_in_mean`",
    ),
    "Lars": Apart(
        "lars",
        {"lr": 0.1, "trust": 0.02, "always_adapt": True},
        "bitsandbytes",
        Torch("bitsandbytes.optim", "LARS", lr=0.1, momentum=0.9),
        0.0259,
        "it shortens the momentum to a share of the weights, the paper scales each gradient",
    ),
    "Lars, momentum": Apart(
        "lars",
        {"lr": falling(0.1), "momentum": 0.8, "trust": 0.01, "eps": 0.0, "always_adapt": True},
        "optax",
        Optax(lambda o: o.lars(falling(0.1), trust_coefficient=0.01, momentum=0.8)),
        0.00460,
        "the learning rate is within the momentum, as with `lr_in_buffer`",
    ),
    "RMSprop, momentum": Apart(
        "rmsprop",
        {"lr": falling(0.01), "alpha": 0.9, "eps": 1e-3, "eps_inside": True, "momentum": 0.7},
        "optax",
        Optax(lambda o: o.rmsprop(falling(0.01), decay=0.9, eps=1e-3, momentum=0.7)),
        0.0646,
        "the learning rate is within the momentum, as with `lr_in_buffer`",
    ),
    "RMSprop, with momentum": Apart(
        "rmsprop",
        {"lr": 0.01, "momentum": 0.7},
        "bitsandbytes",
        Torch("bitsandbytes.optim", "RMSprop", lr=0.01, momentum=0.7),
        0.654,
        "it takes no notice of `momentum`",
    ),
    "NAdam, decoupled": Apart(
        "nadam",
        {**ADAMW, "decay": "decoupled"},
        "`fu.NAdamW`, timm's",
        Ours("nadamw", **ADAMW),
        0.0481,
        "it corrects m and the gradient both by 1 − β₁ᵗ, NAdam each by its own product of momenta",
    ),
    "SimplifiedAdEMAMix": Apart(
        "simplifiedademamix",
        {"lr": 2e-3},
        "pytorch_optimizer",
        Torch("pytorch_optimizer", "SimplifiedAdEMAMix", lr=2e-3, betas=(0.99, 0.95), alpha=0.0, weight_decay=0.0),
        0.0660,
        "it keeps a mean in place of a sum, and has another correction",
    ),
    "Rprop": Apart(
        "rprop",
        {"lr": 0.01},
        "optax",
        Optax(lambda o: o.rprop(0.01)),
        0.0325,
        "it takes each step one step later, as with `one_late`",
    ),
    "Lamb": Apart(
        "lamb",
        {"lr": 0.01},
        "timm",
        Torch("timm.lamb", "Lamb", lr=0.01, weight_decay=0.0, max_grad_norm=None),
        0.134,
        "it leaves out the ratio where λ is 0, unless `always_adapt`",
    ),
    "Lamb, clipped": Apart(
        "lamb",
        {**ADAMW, "trust_clip": True},
        "bitsandbytes",
        Torch("bitsandbytes.optim", "LAMB", **ADAMW),
        0.0425,
        "its ratio is to the length of m/√v, without corrections and decay",
    ),
    "NovoGrad": Apart(
        "novograd",
        {**ADAMW, "betas": (0.9, 0.98), "grad_averaging": True},
        "apex",
        Written(apex.optimizers.FusedNovoGrad, betas=(0.9, 0.98), reg_inside_moment=True, **ADAMW),
        0.0186,
        "it corrects m and the norm, as with `corrected`",
    ),
    "NovoGrad, decoupled": Apart(
        "novograd",
        {**ADAMW, "betas": (0.9, 0.98), "grad_averaging": True, "decay": "decoupled"},
        "apex",
        Written(apex.optimizers.FusedNovoGrad, betas=(0.9, 0.98), bias_correction=False, **ADAMW),
        0.000682,
        "its momentum is of gradients, as with `divide_mean`",
    ),
    "Muon, nesterov": Apart(
        "muon",
        {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.3, "nesterov": True, "rows_are_inputs": True},
        "optax",
        Optax(lambda o: o.contrib.muon(0.02, beta=0.9, weight_decay=0.3, eps=0.0, nesterov=True)),
        0.00361,
        "it corrects the bias of both that it mixes, as with `corrected`",
        MATRICES,
    ),
    "Muon": Apart(
        "muon",
        {"lr": 0.02, "match_rms_adamw": True, "weight_decay": 0.0},
        "timm",
        Torch("timm.muon", "Muon", lr=0.02),
        0.104,
        "it has other coefficients, which change from iteration to iteration, as with `quintic`",
        MATRICES,
    ),
    "Adafactor, decayed": Apart(
        "adafactor",
        {"lr": 0.01, "weight_decay": 0.3, "eps": (1e-30, 1e-3)},
        "transformers",
        Torch("transformers.optimization", "Adafactor", weight_decay=0.3),
        0.0142,
        "it decays by λ times its whole step size, as with `scaled_decay`",
        MATRICES,
    ),
    "Adafactor": Apart(
        "adafactor",
        {"lr": 0.01},
        "timm",
        Torch("timm.adafactor_bv", "AdafactorBigVision", lr=0.01),
        0.0466,
        "its α is no share of the weights, small matrices have a whole v, and a momentum is kept, as with "
        "`scale_parameter`, `unfactored` and `beta1`",
        MATRICES,
    ),
    "SM3, three axes": Apart(
        "sm3",
        {"lr": 0.01},
        "optax",
        Optax(lambda o: o.sm3(0.01)),
        0.00399,
        "it has one number for each place on each axis, here each matrix has rows and columns",
        CUBES,
    ),
    "NorMuon": Apart(
        "normuon",
        {"lr": 0.02},
        "dion's, by heads",
        Heads("normuon", lr=0.02),
        0.0456,
        "it makes each head orthogonal by itself, as with a view of each, `w.reshape(heads, -1, columns)`",
        MATRICES,
    ),
    "ASGD": Apart(
        "asgd",
        {"lr": 0.01},
        "pytorch_optimizer",
        Torch("pytorch_optimizer", "ASGD", lr=0.01),
        0.00546,
        "it finds its learning rate by norms of weights and gradients, and averages nothing",
    ),
    "lookahead": Apart(
        "adamw",
        {**ADAMW, "lookahead": (3, 0.4)},
        "timm",
        Around("timm.lookahead", "Lookahead", Torch("torch.optim", "AdamW", **ADAMW), k=3, alpha=0.4),
        0.0196,
        "its slow weights start at the first sync, the paper's and ours before the first step",
        MATRICES,
    ),
    "Mars": Apart(
        "mars",
        {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.0, "gamma": 0.5},
        "pytorch_optimizer",
        Torch("pytorch_optimizer", "MARS", lr=0.01, betas=(0.9, 0.99), weight_decay=0.0, gamma=0.5),
        0.0176,
        "it corrects in the first step too, as with `correct_first`; here gradients are a tenth as long as elsewhere",
        Data(MATRICES.weights, [[g / 10 for g in grads] for grads in MATRICES.grads]),
    ),
    "QHAdam": Apart("qhadam", {"lr": 0.01}, "`fu.Adam`", Ours("adam", lr=0.01), 0.0, "ν₁ and ν₂ are 1 by default"),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(k, marks=[] if isinstance(row.theirs, (Ours, Written)) else pytest.mark.peer)
        for k, row in DIFFERENCES.items()
    ],
)
def test_how_far_apart(name: str) -> None:
    row = DIFFERENCES[name]
    params = [p.copy() for p in row.data.weights]
    row.theirs.start(params)
    opt = rules.get(row.rule)(params, **row.arguments)
    for k, grads in enumerate(row.data.grads):
        if isinstance(row.theirs, Torch) and callable(row.arguments["lr"]):
            row.theirs.optimizer.param_groups[0]["lr"] = row.arguments["lr"](k)
        opt.step(grads)
        theirs = row.theirs.step(grads)
    far = max(np.abs(p - q).max() for p, q in zip(params, theirs, strict=True))
    assert far == pytest.approx(row.figure, rel=0.01, abs=1e-15), row.why


@pytest.mark.parametrize("name", DIFFERENCES)
def test_the_page_says_so(name: str) -> None:
    row = DIFFERENCES[name]
    assert f"\n| {name} | {row.named} | {row.figure:.3g} | {row.why} |\n" in PAGE


@pytest.mark.parametrize("rule", ["lion", "tiger", "signsgd"])
def test_a_sign_of_zero_moves_nothing(rule: str) -> None:
    """As torch's sign has it: DeepSpeed's Lion goes down there on a CPU, and up on a GPU."""
    weights = np.ones(3)
    rules.get(rule)([weights], lr=0.1, weight_decay=0.0).step([np.array([0.0, -0.0, 1.0])])
    assert weights.tolist() == [1.0, 1.0, 0.9]


@pytest.mark.parametrize("sign", [-1.0, 0.5, 1.0])
def test_the_sign_of_zero_may_be_another(sign: float) -> None:
    weights = np.ones(3)
    rules.get("lion")([weights], lr=0.1, sign_of_zero=sign).step([np.array([0.0, -0.0, 1.0])])
    assert weights.tolist() == [1.0 - 0.1 * sign, 1.0 - 0.1 * sign, 0.9]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("eps", [{"eps": (1e-30, 1e-3)}, {"eps": (0.0, 1e-3), "eps_added": 1e-30}], ids=["ε₁", "added"])
def test_rows_without_a_gradient_move_nothing(eps: dict[str, Any], dtype: Any) -> None:
    """Adafactor's ε, as other libraries have it, has a square, and products with itself, that are 0 in float32."""
    some, none = np.ones((3, 4), dtype), np.ones((2, 2), dtype)
    gradient = np.ones_like(some)
    gradient[1] = 0.0
    rules.get("adafactor")([some, none], **eps).step([gradient, np.zeros_like(none)])
    assert (some[1] == 1.0).all()
    assert (none == 1.0).all()
    assert (some[[0, 2]] < 1.0).all()


@pytest.mark.parametrize("rule", ["lamb", "lars", "adafactor", "adamp", "sgdp"])
def test_weights_of_zero_are_no_trap(rule: str) -> None:
    """A step that is as long as the weights would leave them there for ever."""
    weights = np.zeros((3, 4))
    rules.get(rule)([weights], weight_decay=0.1).step([np.ones((3, 4))])
    assert (weights < 0.0).all()
