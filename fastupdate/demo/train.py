"""The training loop, and beside it the same run updated by plain NumPy, for comparison."""

from __future__ import annotations

import hashlib
import inspect
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

import fastupdate as fu
from fastupdate.demo import DemoError, require
from fastupdate.demo.data import Dataset
from fastupdate.demo.network import MLP, Floats, Labels
from fastupdate.demo.ranks import SharedTraining
from fastupdate.monitoring.diagnosis import Finding

Optimizer = fu.Optimizer | fu.Partition
States = list[Floats | None]  # of one tensor, in the rule's order; None: a state that its flags switch off

HIDDEN = (256, 128)
LEARNING_RATES = {"momentum": 0.05, "rmsprop": 1e-3, "sgd": 0.3}  # a rule that is not here starts from its own default
OTHERS_LR = 1e-3  # of AdamW, beside a rule for matrices

EXPLODED = 10.0  # times the loss at the start, and it is called diverged


@dataclass(frozen=True)
class Settings:
    """What all rules of one comparison share. `lr` None: the rule's own; `backend` None: the library's choice.

    `monitor`: a folder for statistics, with a folder in it for each rule. `comm`: the processes that train together,
    None: this one alone; `pieces`: of a batch, whose gradients add up in one order.
    """

    epochs: int
    batch_size: int
    seed: int
    lr: float | None = None
    backend: str | None = None
    monitor: Path | None = None
    comm: Any = None
    pieces: int | None = None


class Epoch(NamedTuple):
    """What one pass over the images came to; times are medians of all steps so far."""

    loss: float  # mean over the images
    accuracy: float  # share of right answers on the test images
    update_seconds: float  # of one step
    numpy_seconds: float  # NaN: plain NumPy does not know the rule, whose steps depend on sums
    difference: float  # largest between a weight and its plain-NumPy copy; NaN likewise
    digest: str  # of the weights


@dataclass
class Run:
    """One rule's training, up to the last whole epoch; `start` holds loss and accuracy before the first step."""

    rule: str
    lr: float
    start: tuple[float, float] = (math.nan, math.nan)
    epochs: list[Epoch] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)  # what the monitor says at the end

    @property
    def last(self) -> Epoch:
        return self.epochs[-1]

    @property
    def diverged(self) -> int | None:
        """The epoch in which the loss was lost: no longer finite, or ten times what it was at the start for good.

        What comes back below half of that start has recovered.
        """
        if not self.epochs or self.last.loss < self.start[0] / 2:
            return None
        limit = EXPLODED * self.start[0]
        return next((k for k, epoch in enumerate(self.epochs, start=1) if not epoch.loss <= limit), None)


class Progress(Protocol):
    """Follows a training: `start` a rule, `step` after each mini-batch, `epoch` after each pass over the images."""

    def start(self, rule: str, epochs: int, steps: int) -> None: ...
    def step(self) -> None: ...
    def epoch(self, loss: float, accuracy: float) -> None: ...


def train(run: Run, data: Dataset, settings: Settings, progress: Progress) -> None:
    """Train a network from scratch with the run's rule and add to the run what each epoch came to.

    The same seed starts every rule from the same weights and batches.

    Matrix products run on one thread: how they are shared out among threads changes their last bits, the same seed
    would give other weights on another number of cores, and these are too small to gain by it.
    """
    one_thread = require("threadpoolctl", "the training").threadpool_limits(limits=1, user_api="blas")
    quietly = np.errstate(over="ignore", invalid="ignore")  # divergence is reported once, as such
    with one_thread, quietly, make_monitor(run.rule, settings) as monitor:
        try:
            _train(run, data, settings, progress, monitor)
        finally:  # also of a training that is interrupted
            run.findings = [] if monitor is None else monitor.diagnose()


def _train(run: Run, data: Dataset, settings: Settings, progress: Progress, monitor: fu.Monitor | None) -> None:
    rng = np.random.default_rng(settings.seed)
    network = MLP((data.train_images.shape[1], *HIDDEN, data.classes), rng)
    images = len(data.train_images)
    steps = settings.epochs * math.ceil(images / settings.batch_size)
    optimizer = make_optimizer(run.rule, network.params, settings, steps)
    training: Training | SharedTraining = Training(network, optimizer)
    if isinstance(optimizer, fu.sharded.Optimizer):
        training = SharedTraining(network, optimizer, settings.comm, settings.pieces)
    twin = None
    if not isinstance(optimizer, fu.Partition) and not optimizer.rule.phases:
        twin = NumpyTwin(optimizer, training.params)
    times: list[tuple[float, float]] = []  # of the update, and of plain NumPy's
    run.start = network.loss(data.train_images, data.train_labels), network.accuracy(data.test_images, data.test_labels)
    progress.start(run.rule, settings.epochs, steps)
    for _ in range(settings.epochs):
        total = 0.0
        for loss, count in passed(training, data, settings.batch_size, rng):
            total += loss * count
            update = seconds(training.update)
            times.append((update, math.nan if twin is None else seconds(lambda: twin.step(training.grads))))
            if monitor is not None and optimizer.report is not None:
                monitor(optimizer.report, loss)
            progress.step()
        with at_their_best(optimizer):
            accuracy = network.accuracy(data.test_images, data.test_labels)
        update, plain = (median(column) for column in zip(*times, strict=True))
        apart = math.nan if twin is None else training.largest(twin.difference(training.params))
        run.epochs.append(Epoch(total / images, accuracy, update, plain, apart, digest(network.params)))
        progress.epoch(run.last.loss, accuracy)
        if not math.isfinite(run.last.loss):
            break


def learning_rate(rule: str, settings: Settings) -> float:
    """Where the learning rate starts."""
    if settings.lr is not None:
        return settings.lr
    return LEARNING_RATES.get(rule) or float(inspect.signature(fu.rules.get(rule)).parameters["lr"].default)


def make_optimizer(rule: str, params: dict[str, Floats], settings: Settings, steps: int) -> Optimizer:
    """The rule with its own defaults; its learning rate falls to zero along a cosine, which settles every rule.

    That of a schedule-free rule stays. Of a rule for matrices, the others go by AdamW.
    """
    optimizer_class: Callable[..., Optimizer] = fu.rules.get(rule)
    known, lr = fu.rules.every()[rule], learning_rate(rule, settings)
    arguments: dict[str, Any] = {"lr": lr if known.evaluated else fu.schedules.cosine(lr, steps)}
    if known.matrix is not None:
        arguments["others"] = fu.AdamW.with_(lr=fu.schedules.cosine(OTHERS_LR, steps))
    if settings.comm is not None:
        if known.matrix is not None:
            raise DemoError(f"--rule: {rule} goes with another rule for what is no matrix, which ranks do not share")
        optimizer_class = getattr(fu.sharded, optimizer_class.__name__)
        arguments |= {"comm": settings.comm, "pieces": settings.pieces}
    try:
        return optimizer_class(params, **arguments, backend=settings.backend, monitor=settings.monitor is not None)
    except (ValueError, RuntimeError) as error:
        raise DemoError(str(error)) from error


def check(rules: Sequence[str], settings: Settings) -> None:
    """Raise now, before the first rule has trained, what any of the rules would object to."""
    for rule in rules:
        make_optimizer(rule, {"w": np.zeros(1, np.float32)}, settings, steps=1)
        if settings.monitor is not None and (settings.monitor / rule).exists():
            raise DemoError(f"--monitor: {settings.monitor / rule} exists: choose another folder")


def make_monitor(rule: str, settings: Settings) -> AbstractContextManager[fu.Monitor | None]:
    """One that writes into the rule's folder, if that is asked for; the command says itself what is not there."""
    if settings.monitor is None:
        return nullcontext()
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            return fu.Monitor(settings.monitor / rule)
    except (ImportError, OSError) as error:
        raise DemoError(f"--monitor: {error}") from error


class Training:
    """A network that is trained by an optimizer in one process.

    params, grads   what it moves, and by what
    """

    def __init__(self, network: MLP, optimizer: Optimizer) -> None:
        self.params, self.grads = network.params, network.grads
        optimizer.bind(network.grads)
        self.update: Callable[[], object] = optimizer.step
        self.compute_gradients: Callable[[Floats, Labels], float] = network.compute_gradients

    def largest(self, difference: float) -> float:
        """Over all processes, of which this is the only one."""
        return difference


@contextmanager
def at_their_best(optimizer: Optimizer) -> Iterator[None]:
    """The weights that a rule says a model is to be judged by."""
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()


class NumpyTwin:
    """Copies of the weights, (name -> float32), that plain NumPy updates with the gradients that the optimizer gets."""

    def __init__(self, optimizer: fu.Optimizer, params: dict[str, Floats]) -> None:
        self._optimizer = optimizer
        self._params = {name: p.copy() for name, p in params.items()}
        kept = optimizer.state
        self._states: dict[str, States] = {
            name: [np.zeros_like(p) if state in kept else None for state in optimizer.rule.states]
            for name, p in params.items()
        }
        self._t = 0

    def step(self, grads: dict[str, Floats]) -> None:
        self._t += 1
        numpy_update(self._optimizer, self._t, self._params, grads, self._states)

    def difference(self, params: dict[str, Floats]) -> float:
        """The largest distance between a weight and its copy."""
        return max(float(np.max(np.abs(p - self._params[name]), initial=0.0)) for name, p in params.items())


def numpy_update(
    optimizer: fu.Optimizer,
    t: int,
    params: dict[str, Floats],
    grads: dict[str, Floats],
    states: dict[str, States],
) -> None:
    """Step t = 1, 2, ... of the optimizer's formula on whole arrays; `params` and `states` are updated."""
    rule = optimizer.rule
    flags = rule.flag_tuple(optimizer.stepper.flags)
    scalars = rule.prepare(optimizer.groups[0].at(t - 1), t)
    scalars = type(scalars)(*map(np.float32, scalars))  # rounded once, as the compiled rule does
    for name, p in params.items():
        change, *states[name] = rule.update(flags, scalars, grads[name], p, *states[name])
        np.add(p, change, out=p)


def mini_batches(images: int, size: int, rng: np.random.Generator) -> Iterator[npt.NDArray[np.int64]]:
    """One pass over all images in random order: index arrays of `size`, the last one with what is left."""
    order = rng.permutation(images)
    for start in range(0, images, size):
        yield order[start : start + size]


def passed(
    network: MLP | Training | SharedTraining, data: Dataset, size: int, rng: np.random.Generator
) -> Iterator[tuple[float, int]]:
    """One pass over all images: of each mini-batch its loss, and its size; the network has its gradients then."""
    for batch in mini_batches(len(data.train_images), size, rng):
        yield network.compute_gradients(data.train_images[batch], data.train_labels[batch]), len(batch)


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def digest(params: dict[str, Floats]) -> str:
    """The first eight digits of the SHA-256 of all weights, in order: one other bit gives others."""
    return hashlib.sha256(b"".join(p.tobytes() for p in params.values())).hexdigest()[:8]
