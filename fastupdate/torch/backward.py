"""Steps within backward: each tensor moves as its gradient is ready, and the gradient is freed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from fastupdate.arrays.place import Place
from fastupdate.engines import records
from fastupdate.engines.records import Records
from fastupdate.step.options import Settings
from fastupdate.torch.inputs import check_model
from fastupdate.torch.modes import check_mode
from fastupdate.torch.optimizer import Optimizer
from fastupdate.torch.run import Run, tree_of
from fastupdate.torch.shards import is_dtensor, needs_sums


class Arrived(NamedTuple):
    """The sums of a gradient, and what it was when they were taken."""

    address: int
    version: int
    sums: Records


class Arrivals:
    """The gradients that arrive in backward passes; made by `in_backward`."""

    def __init__(self, model: Any, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer) or not hasattr(optimizer, "rule"):
            kind = f"{type(optimizer).__module__.partition('.')[0]}'s {type(optimizer).__name__}"
            Place("in_backward", "optimizer").fail(TypeError, "an optimizer of one rule, of fu.torch", kind)
        check_model(Place(optimizer.rule.name, "model"), model)
        self._optimizer = optimizer
        settings = Settings(optimizer.rule.name, **optimizer.options)
        self._measures = settings.needs_sums or settings.monitor
        self._decides_late = self._measures or bool(optimizer.rule.states_of("list"))
        self._runs: dict[int, Run] = {}
        self._arrived: dict[int, Arrived] = {}
        self._paused = False
        chosen = {id(p) for p in model.parameters() if p.requires_grad}
        self._params = [p for group in optimizer.param_groups for p in group["params"] if id(p) in chosen]
        if not self._params:
            Place(optimizer.rule.name, "model").fail(ValueError, "parameters of the optimizer's", "none")
        asks = self._decides_late or settings.clip_unit_norm is not None or needs_sums(optimizer.rule, settings)
        if asks and any(map(is_dtensor, self._params)):
            expected = "parameters that ranks do not share, where a step depends on sums"
            Place(optimizer.rule.name, "model").fail(ValueError, expected, "DTensors")
        self._hooks = [p.register_post_accumulate_grad_hook(self._arrive) for p in self._params]
        optimizer.arrivals = self

    def remove(self) -> None:
        """Ends it: from now on the optimizer steps when `step` is called."""
        for hook in self._hooks:
            hook.remove()
        self._optimizer.arrivals = None

    @contextmanager
    def accumulate(self) -> Iterator[None]:
        """Within the context gradients add up, as ever; the first backward pass after it moves by their sum."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def _arrive(self, p: Any) -> None:
        if self._paused:
            return
        check_mode(self._optimizer)
        if self._measures:
            self._arrived[id(p)] = Arrived(p.grad.data_ptr(), p.grad._version, self._run_of(p).measure())
        if not self._decides_late:
            self._optimizer.report = self._run_of(p).step(1.0)
            p.grad = None

    def _run_of(self, p: Any) -> Run:
        """What moves this parameter alone."""
        run = self._runs.get(id(p))
        if run is None or not run.holds(self._optimizer):
            groups = self._optimizer.param_groups
            k = next((k for k, group in enumerate(groups) if any(q is p for q in group["params"])), None)
            if k is None:
                place = Place(self._optimizer.rule.name, "model")
                place.fail(ValueError, "parameters that are still in the optimizer's groups", "another")
            run = self._runs[id(p)] = Run(self._optimizer, [groups[k]], [[p]], tree_of(groups, [[p]]))
        return run

    def totals(self, params: list[Any]) -> Records | None:
        """The sums of the gradients of these parameters; None unless all are known, of gradients as they are now."""
        found = [self._arrived.get(id(p)) for p in params]
        totals = np.zeros(len(params), records.SUMS)
        for k, (p, arrived) in enumerate(zip(params, found, strict=True)):
            if arrived is None or (arrived.address, arrived.version) != (p.grad.data_ptr(), p.grad._version):
                return None
            totals[k] = arrived.sums[0]
        return totals

    def free(self) -> None:
        """Frees the gradients that have been used."""
        self._arrived.clear()
        for p in self._params:
            p.grad = None


def in_backward(model: Any, optimizer: Optimizer) -> Arrivals:
    """Lets the optimizer move each parameter of the model while the backward pass runs; the bits are the same.

    A parameter moves as soon as its gradient is ready, which is freed at once: there is never more than one. With
    options that decide by all gradients (`clip_norm`, `clip_tensor_norm`, `nonfinite`) or `monitor`, their squares are
    summed as they arrive, in the order in which a step sums them, and all move in `optimizer.step()`, which reads no
    gradient twice. There rules with numbers of all tensors (Prodigy, D-Adaptation, DoG, DoWG) move them, too. `step()`
    is called after backward in any case, for schedulers and hooks.

    model      a torch.nn.Module, of which the optimizer has some parameters: these move so
    optimizer  one of fu.torch, of one rule

    TypeError if they are anything else, ValueError if the optimizer has none of the parameters, or decides by sums over
    DTensors.

    Of what is returned `accumulate()` is a context in which gradients add up, and `remove()` ends it. With a
    GradScaler, the optimizer needs one of those options: nonfinite="skip", for example.
    """
    return Arrivals(model, optimizer)
