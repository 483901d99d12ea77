"""`fastupdate train --rule all`: every rule on the same images, each with the learning rate that suits it.

A learning rate is chosen on images that are put aside, in a short training for each of the grid; then the rule is
trained on all training images, and judged on the test images.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import fastupdate as fu
from fastupdate.demo import DemoError, require
from fastupdate.demo.data import Dataset
from fastupdate.demo.network import MLP
from fastupdate.demo.train import (
    HIDDEN,
    Epoch,
    Optimizer,
    Run,
    Settings,
    at_their_best,
    digest,
    learning_rate,
    make_optimizer,
    passed,
    seconds,
)

GRID = (0.1, 0.3, 1.0, 3.0, 10.0)  # times the learning rate that a rule starts from
WIDER = 2  # how often the grid is carried on beyond an end that was best
SHORTER = 2  # a training of the grid has half of the epochs
TIMED = 100  # steps
PUT_ASIDE = 5  # of so many training images one, for choosing
ENOUGH = 0.97  # of the test images: how many epochs it takes is reported
SOPHIA = 10, 0.99  # it has its Hessian estimated every tenth step, and this much of the mean stays


@dataclass
class Choice:
    """What came of a rule.

    run      its training at the learning rate that was chosen
    tried    the mean loss on the images put aside, by learning rate; infinite: it diverged
    seconds  of a step, the median
    bytes    of state for each element
    """

    run: Run
    tried: dict[float, float] = field(default_factory=dict)
    seconds: float = math.nan
    bytes: float = math.nan

    @property
    def enough(self) -> int | None:
        """The epoch from which the test images were known well enough for the first time."""
        return next((k for k, epoch in enumerate(self.run.epochs, start=1) if epoch.accuracy >= ENOUGH), None)

    @property
    def rank(self) -> tuple[float, float]:
        """The better, the smaller: wrong test images, then the loss."""
        return -self.run.last.accuracy, self.run.last.loss

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        epochs = [(epoch.loss, epoch.accuracy) for epoch in self.run.epochs]
        losses, accuracies = zip(self.run.start, *epochs, strict=True)
        tried = {f"{lr:.3g}": loss if math.isfinite(loss) else None for lr, loss in sorted(self.tried.items())}
        return {
            "rule": self.run.rule, "lr": self.run.lr, "seconds": self.seconds, "bytes": self.bytes,
            "enough": self.enough, "tried": tried, "losses": losses, "accuracies": accuracies,
        }  # fmt: skip


def chosen(rule: str, data: Dataset, settings: Settings) -> Choice:
    """Finds the learning rate of a rule, and trains by it."""
    apart = put_aside(data)
    short = replace(settings, epochs=max(1, settings.epochs // SHORTER))
    start = learning_rate(rule, settings)
    tried: dict[float, float] = {}
    wanted = [start * factor for factor in GRID]
    while wanted:
        for lr in wanted:
            tried[lr] = trained(rule, lr, apart, short)[1]
        wanted = beyond(tried) if len(tried) < len(GRID) + WIDER else []
    choice = trained(rule, min(tried, key=lambda lr: tried[lr]), data, settings)[0]
    choice.tried = tried
    choice.seconds = step_seconds(rule, choice.run.lr, data, settings)
    return choice


def beyond(tried: dict[float, float]) -> list[float]:
    """The next learning rate of the grid, if the best so far is at an end of it."""
    order = sorted(tried)
    best = min(order, key=lambda lr: tried[lr])
    if best == order[0]:  # also if all have diverged
        return [order[0] * GRID[0] / GRID[1]]
    return [order[-1] * GRID[-1] / GRID[-2]] if best == order[-1] else []


def put_aside(data: Dataset) -> Dataset:
    """A dataset whose test images are some of the training images, which it lacks."""
    aside = np.arange(len(data.train_images)) % PUT_ASIDE == 0
    images, labels = data.train_images, data.train_labels
    return replace(
        data,
        train_images=images[~aside],
        train_labels=labels[~aside],
        test_images=images[aside],
        test_labels=labels[aside],
    )


def trained(rule: str, lr: float, data: Dataset, settings: Settings) -> tuple[Choice, float]:
    """A training by one learning rate, and the loss on the test images at its end; infinite if it diverged."""
    one_thread = require("threadpoolctl", "the training").threadpool_limits(limits=1, user_api="blas")
    choice, left = Choice(Run(rule, lr)), math.inf
    with one_thread, np.errstate(all="ignore"):
        rng = np.random.default_rng(settings.seed)
        network = MLP((data.train_images.shape[1], *HIDDEN, data.classes), rng)
        steps = settings.epochs * math.ceil(len(data.train_images) / settings.batch_size)
        optimizer = make_optimizer(rule, network.params, replace(settings, lr=lr), steps)
        optimizer.bind(network.grads)
        choice.bytes = state_bytes(optimizer) / sum(p.size for p in network.params.values())
        choice.run.start = judged(network, data)
        for _ in range(settings.epochs):
            total = 0.0
            for loss, images in passed(network, data, settings.batch_size, rng):
                total += loss * images
                estimate_hessian(optimizer, network, images)
                optimizer.step()
            mean = total / len(data.train_images)
            with at_their_best(optimizer):
                left, accuracy = judged(network, data, test=True)
            weights = digest(network.params)
            choice.run.epochs.append(Epoch(mean, accuracy, math.nan, math.nan, math.nan, weights))
            if not math.isfinite(mean):
                return choice, math.inf
    return choice, left if math.isfinite(left) else math.inf


def step_seconds(rule: str, lr: float, data: Dataset, settings: Settings) -> float:
    """How long a step takes by normal gradients: of a training that goes well some become so small that processors take
    many times longer over products of matrices."""
    one_thread = require("threadpoolctl", "the training").threadpool_limits(limits=1, user_api="blas")
    rng = np.random.default_rng(settings.seed)
    network = MLP((data.train_images.shape[1], *HIDDEN, data.classes), rng)
    optimizer = make_optimizer(rule, network.params, replace(settings, lr=lr), TIMED)
    optimizer.bind(network.grads)
    times = []
    with one_thread, np.errstate(all="ignore"):
        for _ in range(TIMED):
            for gradient in network.grads.values():
                rng.standard_normal(out=gradient, dtype=np.float32)
            times.append(seconds(optimizer.step))
    return median(times)


def judged(network: MLP, data: Dataset, *, test: bool = False) -> tuple[float, float]:
    """A loss, of the training images or those of the test, and the accuracy on the latter."""
    images, labels = (data.test_images, data.test_labels) if test else (data.train_images, data.train_labels)
    return network.loss(images, labels), network.accuracy(data.test_images, data.test_labels)


def estimate_hessian(optimizer: Optimizer, network: MLP, images: int) -> None:
    """What Sophia leaves to its users: here by squares of the gradients of the batch, times its images."""
    every, share = SOPHIA
    if isinstance(optimizer, fu.Sophia) and optimizer.step_count % every == 0:
        for name, h in optimizer.state["hessian"].items():
            h += (1 - share) * (images * network.grads[name] ** 2 - h)


def state_bytes(optimizer: Optimizer) -> int:
    """What is kept beside the weights."""
    return sum(a.nbytes for (key, a) in optimizer.state_dict()["arrays"].items() if key.startswith("state."))


# ---- what the user sees ---------------------------------------------------------------------------------------------

COLUMNS = "{:<18}{:>9}{:>11}{:>10}{:>9}{:>11}{:>12}"
HEAD = COLUMNS.format("rule", "lr", "loss", "accuracy", "epochs", "step", "bytes")
MEANINGS = f"""accuracy  on test images; the table is in its order
epochs    until {ENOUGH:.0%} of the test images were known for the first time
step      median time in which a step updates all weights, by normal gradients
bytes     of state for each element"""


def line(choice: Choice) -> str:
    """A rule in the table."""
    run = choice.run
    loss, accuracy = f"{run.last.loss:.3g}", f"{run.last.accuracy:.2%}"
    epochs = "diverged" if run.diverged else choice.enough or "never"
    return COLUMNS.format(
        run.rule, f"{run.lr:.3g}", loss, accuracy, epochs, f"{choice.seconds * 1e6:.0f} us", f"{choice.bytes:.1f}"
    )


def table(choices: Sequence[Choice]) -> str:
    """All rules, the best first."""
    return "\n".join([HEAD, "-" * len(HEAD), *map(line, sorted(choices, key=lambda c: c.rank)), "", MEANINGS])


ACROSS = 5  # panels
SHOWN = "adamw"  # in every panel
FLOOR = 0.1  # of the smallest loss above 0: where a loss of exactly 0 is drawn


def title(data: str, seed: int) -> str:
    """Of the picture."""
    return f"fastupdate train --rule all: {data}, seed {seed}"


def draw(found: Sequence[dict[str, Any]], heading: str, path: Path) -> None:
    """The training losses by epoch, a panel for each rule, the best first; found: the facts of each `Choice`."""
    order = sorted(found, key=lambda facts: (-facts["accuracies"][-1], facts["losses"][-1]))
    columns = min(ACROSS, len(order))
    rows = math.ceil(len(order) / columns)
    size = 1.75 * columns + 0.4, 1.15 * rows + 1.1
    figure = require("matplotlib.figure", "the picture").Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    floor = FLOOR * min((loss for facts in order for loss in facts["losses"] if loss > 0), default=1.0)
    for k, panel in enumerate(axes):
        if k < len(order):
            _draw_losses(panel, order[k], order, floor)
            panel.tick_params(labelsize=8, labelbottom=k + columns >= len(order))
        else:
            panel.set_axis_off()
    figure.supxlabel("epoch (0: before the first step)", fontsize=10)
    figure.supylabel("training loss (mean over the epoch)", fontsize=10)
    known = any(facts["rule"] == SHOWN for facts in order)
    key = f"blue: the rule; orange: {SHOWN}; grey: all others" if known else "blue: the rule; grey: all others"
    figure.suptitle(f"{heading}\n{key}; a triangle: a loss of exactly 0", fontsize=10)
    try:
        figure.savefig(path, dpi=150, facecolor="white")
    except OSError as error:
        raise DemoError(f"--out: cannot write {path}: {error.strerror}") from error


def _draw_losses(panel: Any, shown: dict[str, Any], others: Sequence[dict[str, Any]], floor: float) -> None:
    """A rule's losses in front of those of all others, which show where it stands."""
    for facts in others:
        style = (
            {"color": "#d08a2e", "linewidth": 1.2} if facts["rule"] == SHOWN else {"color": "0.85", "linewidth": 0.5}
        )
        panel.plot(np.maximum(facts["losses"], floor), zorder=2 if facts["rule"] == SHOWN else 1, **style)
    losses = np.array(shown["losses"])
    panel.plot(np.maximum(losses, floor), color="#0b6e99", linewidth=1.8, zorder=3)
    zeros = np.flatnonzero(losses == 0)
    panel.plot(zeros, np.full(len(zeros), floor), "v", color="#0b6e99", markersize=3, zorder=3)
    panel.set_title(shown["rule"], fontsize=9, loc="left", pad=3)
    panel.set(yscale="log")
    panel.yaxis.get_major_locator().set_params(numticks=5)
    panel.minorticks_off()
    panel.spines[["top", "right"]].set_visible(False)


def write(choices: Sequence[Choice], data: Dataset, settings: Settings, path: Path) -> None:
    """Everything that was found out, as JSON."""
    asked = asdict(replace(settings, monitor=None))
    content = {"data": data.name, "settings": asked, "enough": ENOUGH, "rules": [choice.facts() for choice in choices]}
    try:
        path.write_text(json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise DemoError(f"--json: cannot write {path}: {error.strerror}") from error
