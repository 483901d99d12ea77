"""Optimizers of other libraries, each driven in its own way."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import written_peers
from peers import peer

Arrays = list[np.ndarray]
FOLDERS = {"timm": ("optim", "utils"), "torchrec": ("optim",)}  # of packages of which files are imported


class Torch:
    """An optimizer over torch tensors.

    of      "torch.optim", "pytorch_optimizer", "optimi", … or "timm.<file>", "torchrec.<file>"
    before  what to do with the optimizer when it is made: `opt.train()`, say
    group   what the group of the weights has to say
    """

    def __init__(
        self,
        of: str,
        name: str,
        *,
        before: Callable[[Any], object] = lambda opt: None,
        group: dict[str, Any] | None = None,
        **arguments: Any,
    ) -> None:
        self.of, self.name, self.before, self.group, self.arguments = of, name, before, group or {}, arguments

    def start(self, params: Arrays, second: dict[str, Any] | None = None) -> None:
        """`second`: what a second group, of the latter half of the weights, says otherwise than the first."""
        torch = peer("torch")
        self.weights = [torch.nn.Parameter(torch.from_numpy(p.copy())) for p in params]
        first = len(params) if second is None else len(params) // 2
        groups = [{"params": self.weights[:first], **self.group}]
        if second is not None:
            groups.append({"params": self.weights[first:], **self.group, **second})
        with self.numbers_in_their_type():
            self.optimizer = self.make(groups)
            self.before(self.optimizer)

    def make(self, groups: list[dict[str, Any]]) -> Any:
        """The optimizer of these groups of weights."""
        return self.maker()(groups, **self.arguments)

    def maker(self) -> Any:
        """What makes it: the package's class."""
        package, _, file = self.of.partition(".")
        module = file_of(package, file) if package in FOLDERS else named(self.of)
        return getattr(module, self.name)

    def step(self, grads: Arrays) -> Arrays:
        torch = peer("torch")
        for p, g in zip(self.weights, grads, strict=True):
            p.grad = torch.from_numpy(g.copy())
        with self.numbers_in_their_type():
            self.optimizer.step()
        return [p.detach().numpy() for p in self.weights]

    @contextmanager
    def numbers_in_their_type(self) -> Iterator[None]:
        """Lets what an optimizer keeps of a weight in torch's default type, a product of momenta, have the weights'."""
        torch = peer("torch")
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.weights[0].dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


class Around(Torch):
    """A package's optimizer around another one, as Lookahead is."""

    def __init__(self, of: str, name: str, inner: Torch, **arguments: Any) -> None:
        super().__init__(of, name, **arguments)
        self.inner = inner

    def make(self, groups: list[dict[str, Any]]) -> Any:
        return self.maker()(self.inner.make(groups), **self.arguments)


def falling(lr: float) -> Callable[[Any], Any]:
    """A schedule, of the number of a step or of what JAX traces in its place."""
    return lambda t: lr * 0.8**t


class Scheduled:
    """An optimizer over torch tensors whose learning rate is set before each step."""

    def __init__(self, peer: Torch, lr: Callable[[int], float]) -> None:
        self.peer, self.lr = peer, lr

    def start(self, params: Arrays) -> None:
        self.steps = 0
        self.peer.start(params)

    def step(self, grads: Arrays) -> Arrays:
        for group in self.peer.optimizer.param_groups:
            group["lr"] = self.lr(self.steps)
        self.steps += 1
        return self.peer.step(grads)


class Exact(Torch):
    """One that casts to float32 what it corrects by, or decomposes: to the type of the weights."""

    def step(self, grads: Arrays) -> Arrays:
        with mock.patch.object(peer("torch"), "float32", self.weights[0].dtype):
            return super().step(grads)


class Orthogonal(Torch):
    """One of pytorch_optimizer's that orthogonalises matrices: in the type of the weights, instead of bfloat16."""

    def __init__(self, name: str, **arguments: Any) -> None:
        super().__init__("pytorch_optimizer", name, foreach=False, **arguments)

    def step(self, grads: Arrays) -> Arrays:
        module, iterate = sys.modules[type(self.optimizer).__module__], "zero_power_via_newton_schulz_5"
        exact = partial(getattr(module, iterate), dtype=self.weights[0].dtype)
        with mock.patch.object(module, iterate, exact):
            return super().step(grads)


class Optax:
    """A chain of optax' parts: a function of the package makes it. It computes in the type of the weights."""

    def __init__(self, chain: Callable[[Any], Any]) -> None:
        self.chain = chain

    def start(self, params: Arrays) -> None:
        jax, self.optax = peer("jax"), peer("optax")
        self.wide = params[0].dtype == np.float64
        with jax.enable_x64(self.wide):
            self.weights = [jax.numpy.array(p) for p in params]
            self.optimizer = self.chain(self.optax)
            self.state = self.optimizer.init(self.weights)
        self.update = jax.jit(self.optimizer.update)  # whole, which takes less time than each operation by itself

    def step(self, grads: Arrays) -> Arrays:
        jax = peer("jax")
        with jax.enable_x64(self.wide):
            updates, self.state = self.update([jax.numpy.array(g) for g in grads], self.state, self.weights)
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


class Written:
    """A rule of tests/written_peers.py, which has what a package does that the tests do not install."""

    def __init__(self, rule: type[written_peers.Written], **arguments: Any) -> None:
        self.rule, self.arguments = rule, arguments

    def start(self, params: Arrays) -> None:
        self.weights = [p.copy() for p in params]
        self.optimizer: Any = self.rule(self.weights, **self.arguments)

    def step(self, grads: Arrays) -> Arrays:
        self.optimizer.step(self.weights, grads)
        return self.weights


class Mlx:
    """One of MLX's optimizers, on the CPU, in float32."""

    def __init__(self, name: str, *given: Any, **arguments: Any) -> None:
        self.name, self.given, self.arguments = name, given, arguments

    def start(self, params: Arrays) -> None:
        self.core = named("mlx.core")
        self.core.set_default_device(self.core.cpu)
        self.optimizer = getattr(named("mlx.optimizers"), self.name)(*self.given, **self.arguments)
        self.weights = {str(k): self.core.array(p) for k, p in enumerate(params)}
        self.optimizer.init(self.weights)

    def step(self, grads: Arrays) -> Arrays:
        self.weights = self.optimizer.apply_gradients(
            {str(k): self.core.array(g) for k, g in enumerate(grads)}, self.weights
        )
        return [np.asarray(p) for p in self.weights.values()]


def named(module: str) -> ModuleType:
    """A module of a package that tests compare with."""
    peer(module.partition(".")[0])
    return import_module(module)


def file_of(package: str, file: str, folder: str = "optim") -> ModuleType:
    """One file of a package that as a whole imports others, of which an optimizer has no need."""
    peer("torch")
    if package not in sys.modules:
        roots = (find_spec(package) or peer(package)).submodule_search_locations  # `peer` says that it is missing
        for name, path in ((package, ""), *((f"{package}.{folder}", f"/{folder}") for folder in FOLDERS[package])):
            sys.modules[name] = ModuleType(name)
            sys.modules[name].__path__ = [root + path for root in roots]
    return import_module(f"{package}.{folder}.{file}")
