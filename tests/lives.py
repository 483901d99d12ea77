"""What random histories are of: parameters of NumPy or torch, and what each of them should be; a copy by a pickle."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
from cases import same_bits
from peers import Module
from reference import Reference

import fastupdate as fu

Arrays = list[np.ndarray]


class TensorLife:
    """One parameter as it should be: a reference of its own, for tensors freeze and thaw one by one."""

    def __init__(self, case: Any, values: np.ndarray, options: dict[str, Any]) -> None:
        self.reference = Reference(case, [values], **options)
        self.options = options
        self.frozen = False

    @property
    def tensor(self) -> Any:
        return self.reference.tensors[0]

    def step(self, *arguments: Any, **keywords: Any) -> None:
        if not self.frozen:
            self.reference.step(*arguments, **keywords)

    def differences(self, p: np.ndarray, item: Any) -> list[str]:
        """What of a parameter and of what an optimizer keeps for it (`item`) is not as it should be."""
        tensor, names = self.tensor, self.reference.rule.states
        pairs = {"params": (p, tensor.p)}
        pairs |= {
            name: (item.states[name], state)
            for name, state in zip(names, tensor.states, strict=True)
            if name in self.reference.kept
        }
        if "ema_decay" in self.options:
            pairs["ema"] = item.slots["ema"], tensor.ema
        if "shadow" in self.options:
            pairs["shadow"] = item.slots["shadow"], tensor.shadow
        found = []
        for name, (actual, expected) in pairs.items():
            if actual.size and (difference := same_bits(actual, expected)):
                found.append(f"{name} {actual.shape} {actual.dtype}: {difference}")
        return found


class Numpy:
    """Parameters of NumPy's, in a list or a dict."""

    def __init__(self, rng: np.random.Generator, values: Arrays) -> None:
        self.arrays = [laid_out(rng, v) for v in values]
        named = rng.integers(2)
        self.tree: Any = {f"w{k}": a for k, a in enumerate(self.arrays)} if named else list(self.arrays)
        self.keys = [f"w{k}" if named else k for k in range(len(values))]

    def structured(self, grads: list[Any]) -> Any:
        return dict(zip(self.keys, grads, strict=True)) if isinstance(self.tree, dict) else grads

    def gradient(self, values: np.ndarray, rng: np.random.Generator) -> Any:
        return laid_out(rng, values)

    def host(self) -> Arrays:
        return self.arrays

    def write(self, k: int, values: np.ndarray) -> None:
        self.arrays[k][...] = values


class Torch(Numpy):
    """Parameters of torch's, whose memory may be exchanged."""

    def __init__(self, rng: np.random.Generator, values: Arrays) -> None:
        self.torch = Module("torch")
        super().__init__(rng, values)
        self.arrays = [self.torch.nn.Parameter(self.torch.from_numpy(a)) for a in self.arrays]
        pairs = zip(self.keys, self.arrays, strict=True)
        self.tree = dict(pairs) if isinstance(self.tree, dict) else list(self.arrays)

    def gradient(self, values: np.ndarray, rng: np.random.Generator) -> Any:
        return self.torch.from_numpy(laid_out(rng, values))

    def host(self) -> Arrays:
        return [p.detach().numpy() for p in self.arrays]

    def write(self, k: int, values: np.ndarray) -> None:
        self.arrays[k].data.copy_(self.torch.from_numpy(np.array(values)))

    def rebind(self, k: int, values: np.ndarray, rng: np.random.Generator) -> None:
        self.arrays[k].data = self.torch.from_numpy(laid_out(rng, values))


def laid_out(rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    """A copy: in C order, in Fortran order, or with gaps."""
    how = rng.integers(3)
    if how == 0 or values.ndim == 0 or not values.size:
        return np.array(values)
    if how == 1:
        return np.array(values, order="F")
    wide = np.zeros((*values.shape[:-1], 2 * values.shape[-1]), values.dtype)
    wide[..., ::2] = values
    return wide[..., ::2]


def reread(opt: fu.Optimizer) -> fu.Optimizer:
    return pickle.load(io.BytesIO(pickle.dumps(opt)))  # type: ignore[no-any-return]
