"""Small trainings that are healthy or sick: the table that diagnoses are held against."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import networks as nn
import numpy as np
from networks import Activation, BatchNorm, Dense, Network, dense_network, recurrent_network
from small_data import Data, images, points, sequences, texts

import fastupdate as fu
from fastupdate.monitoring.diagnosis import Finding


class Training(NamedTuple):
    """What is trained, on what, with what; `spoil` changes loss and gradients of a step."""

    network: Network
    data: Data
    opt: fu.Optimizer
    steps: int = 200
    batch: int = 32
    spoil: Callable[[int, float, dict[str, np.ndarray]], tuple[float, dict[str, np.ndarray]]] | None = None
    every: int = 1


def train(t: Training) -> Iterator[list[Finding]]:
    """What is found after every tenth step."""
    monitor, order = fu.Monitor(every=t.every), np.random.default_rng(1)
    with np.errstate(all="ignore"):
        for step in range(1, t.steps + 1):
            chosen = order.choice(len(t.data.x), t.batch, replace=False) if t.batch else slice(None)
            loss, grads = t.network.gradients(t.data.x[chosen], t.data.y[chosen])
            if t.spoil is not None:
                loss, grads = t.spoil(step, loss, grads)
            monitor(t.opt.step(grads), loss)
            if step % 10 == 0:
                yield monitor.diagnose()


def make(network: Network, data: Data, rule: str, *, steps: int = 200, batch: int = 32, **options: Any) -> Training:
    """`batch=0`: all data. `every`, `spoil`: see Training; the rest are options of the optimizer."""
    own = {name: options.pop(name) for name in ("every", "spoil") if name in options}
    return Training(network, data, fu.rules.get(rule)(network.params, monitor=True, **options), steps, batch, **own)


def mlp(seed: int, activation: str = "relu", hidden: tuple[int, ...] = (40, 20), **options: Any) -> Network:
    return dense_network(
        (20, *hidden, 5), activation, np.sqrt(2) if activation == "relu" else 1.0, seed=seed, **options
    )


def normalised(seed: int) -> Network:
    """Biases of 1 stand in front of the normalisation, which takes them off again."""
    rng = np.random.default_rng(seed)
    hidden = [layer for i in (20, 40) for layer in (Dense(rng, i, 40, bias=1.0), BatchNorm(40), Activation("relu"))]
    return Network([*hidden, Dense(rng, 40, 5)])


def cnn(seed: int) -> Network:
    rng = np.random.default_rng(seed)
    convolutions = [nn.Convolution(rng, 1, 8), Activation("relu"), nn.Convolution(rng, 8, 8), Activation("relu")]
    return Network([*convolutions, nn.Flatten(), Dense(rng, 128, 4)])


def bag_of_words(seed: int) -> Network:
    rng = np.random.default_rng(seed)
    return Network([nn.Embedding(rng, 200, 16), nn.Mean(), Dense(rng, 16, 24), Activation("relu"), Dense(rng, 24, 4)])


def attention(seed: int) -> Network:
    rng = np.random.default_rng(seed)
    return Network(
        [nn.Embedding(rng, 200, 16), nn.Attention(rng, 16), nn.Attention(rng, 16), nn.Mean(), Dense(rng, 16, 4)]
    )


def linear(
    seed: int, outputs: int = 5, loss: Any = nn.softmax_cross_entropy, spread: float = 0.0, inputs: int = 20
) -> Network:
    return Network([Dense(np.random.default_rng(seed), inputs, outputs, spread)], loss)


def two_classes(seed: int, noise: float = 0.0) -> Data:
    data = points(seed, classes=2, noise=noise)
    return data if noise else Data(*(part[np.abs(data.x @ separating(data)) > 1] for part in data))


def separating(data: Data) -> np.ndarray:
    """The direction between the means of the two classes."""
    return data.x[data.y == 1].mean(axis=0) - data.x[data.y == 0].mean(axis=0)


def regression(seed: int) -> Data:
    rng = np.random.default_rng(100 + seed)
    x = rng.standard_normal((400, 20)).astype(np.float32)
    return Data(x, (x @ rng.standard_normal((20, 1)) + 0.1 * rng.standard_normal((400, 1))).astype(np.float32))


def unlearnable(seed: int) -> Data:
    return points(seed, noise=1.0)


def saddle(seed: int) -> Training:
    """A deep linear network from small weights: the gradient grows a thousandfold as it leaves the plateau."""
    rng = np.random.default_rng(seed)
    data = regression(seed)
    layers = [Dense(rng, i, o, 0.2, None) for i, o in ((20, 20), (20, 20), (20, 1))]
    return make(Network(layers, nn.squared_error), data, "sgd", batch=0, lr=0.05, steps=400)


HEALTHY: dict[str, Callable[[int], Training]] = {
    "mlp": lambda s: make(mlp(s), points(s), "sgd", lr=0.1),
    "mlp, batches of one": lambda s: make(mlp(s), points(s), "sgd", lr=0.01, batch=1, steps=400),
    "mlp, all data": lambda s: make(mlp(s), points(s), "momentum", lr=0.05, batch=0),
    "mlp, every tenth step": lambda s: make(mlp(s), points(s), "adam", every=10, steps=800),
    "mlp, weight decay": lambda s: make(mlp(s), points(s), "adamw", lr=3e-3, weight_decay=0.1, batch=8),
    "mlp, rmsprop": lambda s: make(mlp(s, "tanh"), points(s), "rmsprop", lr=1e-3),
    "mlp, learnt by heart": lambda s: make(mlp(s), points(s, n=60), "adam", lr=1e-2, batch=20, steps=300),
    "mlp, to the end of a schedule": lambda s: make(
        mlp(s), points(s), "adam", lr=fu.schedules.cosine(1e-2, 300), steps=290
    ),
    "cnn": lambda s: make(cnn(s), images(s), "adam", lr=3e-3),
    "cnn, momentum": lambda s: make(cnn(s), images(s), "momentum", lr=0.02),
    "rnn": lambda s: make(recurrent_network(4, 16, 4, 1.0, s), sequences(s), "adam", lr=3e-3),
    "rnn, clipped": lambda s: make(recurrent_network(4, 16, 4, 1.2, s), sequences(s), "sgd", lr=0.2, clip_norm=1.0),
    "attention": lambda s: make(attention(s), texts(s), "adam", lr=3e-3),
    "embeddings": lambda s: make(bag_of_words(s), texts(s), "adagrad" if "adagrad" in fu.rules.names() else "adam"),
    "embeddings, sgd": lambda s: make(bag_of_words(s), texts(s), "sgd", lr=0.5),
    "batch norm, with biases before it": lambda s: make(normalised(s), points(s), "sgd", lr=0.1),
    "batch norm, momentum": lambda s: make(normalised(s), points(s), "momentum", lr=0.02),
    "batch norm, adam": lambda s: make(normalised(s), points(s), "adam", lr=3e-3),
    "hinge": lambda s: make(linear(s, 1, nn.hinge), two_classes(s, noise=0.3), "sgd", lr=0.05, steps=400),
    "hinge, exactly 0 in the end": lambda s: make(
        linear(s, 1, nn.hinge), two_classes(s), "sgd", lr=0.1, batch=0, steps=600
    ),
    "hinge, deep": lambda s: make(
        dense_network((20, 30, 1), "relu", 1.4, seed=s, loss=nn.hinge),
        two_classes(s),
        "adam",
        lr=3e-3,
        batch=8,
        steps=400,
    ),
    "hinge, few labels wrong": lambda s: make(
        linear(s, 1, nn.hinge), two_classes(s, noise=0.1), "sgd", lr=0.1, batch=4, steps=400
    ),
    "plateau: nothing to learn": lambda s: make(mlp(s), unlearnable(s), "sgd", lr=0.02),
    "plateau: nothing to learn from zero": lambda s: make(
        linear(s), unlearnable(s), "sgd", lr=0.02, batch=8, steps=400
    ),
    "plateau, left in the end": saddle,
    "noise floor, momentum": lambda s: make(linear(s), points(s, noise=0.3), "momentum", batch=8, steps=300),
    "noise floor, adam": lambda s: make(linear(s), points(s, noise=0.3), "adam", lr=1e-2, batch=8, steps=300),
    "noise floor, sgd with momentum": lambda s: make(
        linear(s), points(s, noise=0.3), "sgd", lr=1e-2, momentum=0.9, batch=8, steps=300
    ),
    "noise floor, two classes": lambda s: make(
        linear(s, 2), points(s, noise=0.3, classes=2), "momentum", batch=4, steps=300
    ),
    "noise floor, regression": lambda s: make(
        linear(s, 1, nn.squared_error), regression(s), "sgd", lr=0.05, batch=8, steps=300
    ),
    "inputs of 1e-3": lambda s: make(mlp(s, "tanh"), points(s, scale=1e-3), "adam", lr=3e-3),
    "inputs of 1e-3, sgd": lambda s: make(mlp(s, "tanh", hidden=(40, 40, 20)), points(s, scale=1e-3), "sgd", lr=0.1),
    "inputs of 1e-3, sigmoid": lambda s: make(mlp(s, "sigmoid"), points(s, scale=1e-3), "sgd", lr=0.5),
    "inputs of 1e-3, no biases": lambda s: make(
        mlp(s, hidden=(40, 40, 20), bias=None), points(s, scale=1e-3), "sgd", lr=0.1
    ),
    "inputs of 1e3": lambda s: make(mlp(s), points(s, scale=1e3), "adam", lr=1e-3),
    "inputs of 1e3, linear": lambda s: make(linear(s), points(s, scale=1e3), "sgd", lr=1e-7),
}


# -- sick -------------------------------------------------------------------------------------------------------------

Grads = dict[str, np.ndarray]


class Sick(NamedTuple):
    """Networks that have one of the troubles at the end, with what the text must say, and maybe others beside it."""

    training: Callable[[int], Training]
    kind: str
    says: str
    beside: tuple[str, ...] = ()


def loss_becomes(value: float, every: int = 10, start: int = 100) -> Callable[..., tuple[float, Grads]]:
    """The loss is spoilt in steps that `every` divides, the gradients are as they were."""
    return lambda step, loss, grads: (value if step >= start and step % every == 0 else loss, grads)


def gradients_become(factor: float, steps: range, loss_factor: float = 1.0) -> Callable[..., tuple[float, Grads]]:
    """Loss and gradients are multiplied in these steps."""
    return lambda step, loss, grads: (
        (loss * loss_factor, {name: np.float32(factor) * g for name, g in grads.items()})
        if step in steps
        else (loss, grads)
    )


def partly_dead(seed: int, share: float = 0.75) -> Network:
    """The biases of three quarters of the units of both hidden layers are far below anything that comes in."""
    network = mlp(seed, hidden=(80, 80))
    for name in ("b1", "b2"):
        network.params[name][: int(share * 80)] = -100.0
    return network


def one_output(seed: int) -> Training:
    """Of 32 units in front of a single output 25 are dead."""
    network = dense_network((20, 32, 1), "relu", np.sqrt(2), seed=seed, loss=nn.squared_error)
    network.params["b1"][:25] = -100.0
    return make(network, regression(seed), "adam")


def heavy(seed: int) -> Training:
    """Weights of a million, each three away from the best: the update is lost, although there is much to gain."""
    rng = np.random.default_rng(seed)
    network, x = linear(seed, 1, nn.squared_error, inputs=200), rng.standard_normal((400, 200)).astype(np.float32)
    network.params["w1"] += np.float32(1e6)
    y = x @ (network.params["w1"] + 3 * rng.standard_normal((200, 1)).astype(np.float32))
    return make(network, Data(x, y), "sgd", lr=1e-3)


def four_times(seed: int) -> Data:
    return points(seed, scale=4.0)


def quadratic(seed: int) -> tuple[Network, Data, float]:
    """A linear regression, and the learning rate beyond which gradient descent on all data diverges."""
    data = regression(seed)
    with_one = np.c_[data.x, np.ones(len(data.x))]
    return linear(seed, 1, nn.squared_error), data, 2 / np.linalg.eigvalsh(with_one.T @ with_one / len(data.x))[-1]


def just_unstable(seed: int) -> Training:
    network, data, limit = quadratic(seed)
    return make(network, data, "sgd", lr=1.1 * limit, batch=0, steps=60)


# What else may be said where the trajectory depends on the last bit.
CHAOS = ("nonfinite", "exploding", "spike", "vanishing", "overshooting", "diverging")

SICK: dict[str, Sick] = {
    "vanishing, deep sigmoid": Sick(
        lambda s: make(mlp(s, "sigmoid", hidden=(30,) * 8), points(s), "sgd", lr=0.1),
        "vanishing",
        "fade on their way back to w1, b1",
    ),
    "vanishing, deep tanh with small weights": Sick(
        lambda s: make(dense_network((20, *(30,) * 8, 5), "tanh", 0.2, seed=s), points(s), "sgd", lr=0.1),
        "vanishing",
        "w1",
    ),
    "exploding, recurrent": Sick(
        lambda s: make(recurrent_network(4, 32, 4, 4.0, s), sequences(s, 40), "sgd", lr=1e-6, steps=60),
        "exploding",
        "grow on their way back to wx1, wh1 and bh1",
        CHAOS,
    ),
    "exploding in the first ten steps": Sick(
        lambda s: make(mlp(s, hidden=(30,) * 6), points(s), "sgd", lr=0.05, spoil=gradients_become(1e5, range(4, 5))),
        "exploding",
        "in step",
        CHAOS,
    ),
    "exploded long ago": Sick(
        lambda s: make(mlp(s), points(s), "sgd", lr=0.1, steps=400, spoil=gradients_become(1e5, range(60, 61))),
        "exploding",
        "in step",
        CHAOS,
    ),
    "overshooting, sgd": Sick(
        lambda s: make(mlp(s, "tanh", (16,)), four_times(s), "sgd", lr=30.0),
        "overshooting",
        "at first",
        CHAOS,
    ),
    "overshooting, adam": Sick(
        lambda s: make(mlp(s, "tanh", (16,)), four_times(s), "adam", lr=10.0),
        "overshooting",
        "",
        CHAOS,
    ),
    "overshooting, back and forth": Sick(
        lambda s: make(linear(s), points(s, noise=0.3), "sgd", lr=40.0, momentum=0.2, batch=0, steps=60),
        "overshooting",
        "back and forth",
    ),
    "overshooting, learning rate of 20": Sick(
        lambda s: make(mlp(s), points(s), "sgd", lr=20.0), "overshooting", "", CHAOS
    ),
    "diverging, just unstable": Sick(just_unstable, "overshooting", "at first", ("exploding",)),
    "diverging, wrong sign": Sick(
        lambda s: make(mlp(s), points(s), "sgd", lr=1e-3, maximize=True, steps=300),
        "diverging",
        "at first",
        ("exploding", "spike"),
    ),
    "dead, all ReLUs": Sick(
        lambda s: make(mlp(s, bias=-40.0), points(s), "adam"), "dead", "every gradient of w1, b1, w2, b2 and w3 was 0"
    ),
    "dead, all and no bias behind": Sick(
        lambda s: make(
            Network([*mlp(s, bias=-40.0).layers[:-1], Dense(np.random.default_rng(s), 20, 5, bias=None)]),
            points(s),
            "adam",
        ),
        "dead",
        "while the loss is 1.61",
    ),
    "dead, three quarters of the units": Sick(
        lambda s: make(partly_dead(s), points(s), "sgd", lr=0.05), "dead", "75% of those of b1"
    ),
    "dead, three quarters, small batches": Sick(
        lambda s: make(partly_dead(s), points(s), "adam", batch=8), "dead", "of those of b1"
    ),
    "dead, three quarters, one layer": Sick(
        lambda s: make(partly_dead(s), points(s), "momentum", lr=0.02, batch=16), "dead", "of those of b2"
    ),
    "dead, 25 of 32 units in front of one output": Sick(one_output, "dead", "78% of those of b1"),
    "stalled, large weights": Sick(heavy, "stalled", "w + Δ = w for"),
    "stalled, tiny learning rate": Sick(
        lambda s: make(mlp(s, "tanh"), points(s), "sgd", lr=1e-8), "stalled", "weights in w"
    ),
    "stalled, learning rate of 0": Sick(
        lambda s: make(mlp(s), points(s), "adam", lr=0.0), "stalled", "the learning rate is 0"
    ),
    "NaN loss": Sick(
        lambda s: make(mlp(s), points(s), "adam", spoil=loss_becomes(np.nan)), "nonfinite", "the loss was nan in step"
    ),
    "infinite loss": Sick(
        lambda s: make(mlp(s), points(s), "adam", spoil=loss_becomes(np.inf)), "nonfinite", "the loss was inf in step"
    ),
    "NaN loss for good": Sick(
        lambda s: make(mlp(s), points(s), "adam", spoil=loss_becomes(np.nan, every=1)), "nonfinite", "in 50 of 50"
    ),
    "infinite loss for good": Sick(
        lambda s: make(mlp(s), points(s), "sgd", lr=0.1, steps=130, spoil=loss_becomes(np.inf, every=1)),
        "nonfinite",
        "in 31 of 50",
    ),
    "NaN loss between records": Sick(
        lambda s: make(mlp(s), points(s), "adam", every=7, spoil=loss_becomes(np.nan)),
        "nonfinite",
        "the loss was nan in step",
    ),
    "NaN gradients": Sick(
        lambda s: make(mlp(s), points(s), "sgd", lr=0.1, spoil=gradients_become(np.nan, range(180, 181))),
        "nonfinite",
        "first in step 180",
    ),
    "spike of the loss": Sick(
        lambda s: make(mlp(s), points(s), "sgd", lr=0.01, spoil=gradients_become(1.0, range(170, 171), 8.0)),
        "spike",
        "in step 170",
    ),
    "spike of the gradients": Sick(
        lambda s: make(mlp(s), points(s), "sgd", lr=0.01, clip_norm=1.0, spoil=gradients_become(60.0, range(170, 171))),
        "spike",
        "in step 170",
    ),
}
