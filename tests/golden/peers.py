"""Optimizers of other libraries, each driven in its own way."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
from peers import peer

Arrays = list[np.ndarray]


class Torch:
    """An optimizer over torch tensors.

    of      "torch.optim", "pytorch_optimizer", "optimi", … or "timm.<file>"
    before  what to do with the optimizer when it is made: `opt.train()`, say
    """

    def __init__(
        self, of: str, name: str, *, before: Callable[[Any], object] = lambda opt: None, **arguments: Any
    ) -> None:
        self.of, self.name, self.before, self.arguments = of, name, before, arguments

    def start(self, params: Arrays) -> None:
        torch = peer("torch")
        self.weights = [torch.nn.Parameter(torch.from_numpy(p.copy())) for p in params]
        module = timm(self.of.partition(".")[2]) if self.of.startswith("timm.") else named(self.of)
        self.optimizer = getattr(module, self.name)(self.params(), **self.arguments)
        self.before(self.optimizer)

    def params(self) -> Any:
        """The weights as the optimizer takes them."""
        return self.weights

    def step(self, grads: Arrays) -> Arrays:
        torch = peer("torch")
        for p, g in zip(self.weights, grads, strict=True):
            p.grad = torch.from_numpy(g.copy())
        self.optimizer.step()
        return [p.detach().numpy() for p in self.weights]


class Orthogonal(Torch):
    """One of pytorch_optimizer's that orthogonalises matrices: in the type of the weights, instead of bfloat16.

    group  what the group of the weights has to say
    """

    def __init__(self, name: str, group: dict[str, Any] | None = None, **arguments: Any) -> None:
        super().__init__("pytorch_optimizer", name, foreach=False, **arguments)
        self.group = group

    def params(self) -> Any:
        return self.weights if self.group is None else [{"params": self.weights, **self.group}]

    def step(self, grads: Arrays) -> Arrays:
        module, iterate = sys.modules[type(self.optimizer).__module__], "zero_power_via_newton_schulz_5"
        exact = partial(getattr(module, iterate), dtype=self.weights[0].dtype)
        with mock.patch.object(module, iterate, exact):
            return super().step(grads)


class Optax:
    """A chain of optax' parts: a function of the package makes it. It computes in float32."""

    def __init__(self, chain: Callable[[Any], Any]) -> None:
        self.chain = chain

    def start(self, params: Arrays) -> None:
        jax, self.optax = peer("jax"), peer("optax")
        self.weights = [jax.numpy.array(p) for p in params]
        self.optimizer = self.chain(self.optax)
        self.state = self.optimizer.init(self.weights)

    def step(self, grads: Arrays) -> Arrays:
        jax = peer("jax")
        updates, self.state = self.optimizer.update([jax.numpy.array(g) for g in grads], self.state, self.weights)
        self.weights = self.optax.apply_updates(self.weights, updates)
        return [np.asarray(p) for p in self.weights]


class Keras:
    """A Keras optimizer, on torch's tensors. Its learning rate is a float32: a power of two is the same in any type."""

    def __init__(self, name: str, **arguments: Any) -> None:
        self.name, self.arguments = name, arguments

    def start(self, params: Arrays) -> None:
        keras = peer("keras")  # on torch, as test_golden.py has it: in JAX float64 would have to be switched on
        self.weights = [keras.Variable(p.copy(), dtype=p.dtype.name) for p in params]
        self.optimizer = getattr(keras.optimizers, self.name)(**self.arguments)
        self.optimizer.build(self.weights)

    def step(self, grads: Arrays) -> Arrays:
        torch = peer("torch")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of Keras' own arrays in NumPy 2
            self.optimizer.apply([torch.from_numpy(g.copy()) for g in grads], self.weights)
        return [p.value.detach().numpy() for p in self.weights]


def named(module: str) -> ModuleType:
    """A module of a package that tests compare with."""
    peer(module.partition(".")[0])
    return import_module(module)


def timm(file: str) -> ModuleType:
    """One file of timm.optim. timm itself imports torchvision, which an optimizer has no need of."""
    peer("torch")
    if "timm" not in sys.modules:
        roots = (find_spec("timm") or peer("timm")).submodule_search_locations  # `peer` says that it is missing
        for name, folder in (("timm", ""), ("timm.optim", "/optim")):
            sys.modules[name] = ModuleType(name)
            sys.modules[name].__path__ = [root + folder for root in roots]
    return import_module(f"timm.optim.{file}")
