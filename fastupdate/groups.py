"""Parameter groups: which tensors share hyperparameters, chosen by patterns over their dotted names."""

from __future__ import annotations

import fnmatch
import glob
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fastupdate.arrays import tree
from fastupdate.arrays.numbers import SHARE, integer, real
from fastupdate.arrays.place import Place

Pattern = str | re.Pattern[str] | Iterable["str | re.Pattern[str]"]
GroupSpec = Mapping[str, Any]


def matcher(pattern: Pattern) -> Callable[[str], bool]:
    """Whether a dotted name matches: a glob, a compiled regular expression (search), or any of several."""
    if isinstance(pattern, str):
        return re.compile(fnmatch.translate(pattern)).match  # type: ignore[return-value]
    if isinstance(pattern, re.Pattern):
        return lambda name: pattern.search(name) is not None
    if not isinstance(pattern, Iterable):
        raise TypeError(f"[fastupdate] pattern: expected a glob, a regular expression or several, received {pattern!r}")
    tests = [matcher(p) for p in pattern]
    return lambda name: any(test(name) for test in tests)


def sort_into_groups(rule: str, names: list[str], specs: Iterable[GroupSpec]) -> list[tuple[list[str], dict[str, Any]]]:
    """Tensors that match the same specs form a group; where specs disagree, the later one holds.

    Returns (names, overrides) per group, in the order of each group's first tensor.
    """
    specs = list(specs)
    members: list[set[str]] = []
    for k, spec in enumerate(specs):
        if "params" not in spec:
            raise ValueError(f"[{rule}] groups[{k}]: expected a 'params' pattern, received {sorted(spec)}")
        matches = matcher(spec["params"])
        found = {name for name in names if matches(name)}
        if not found:
            raise ValueError(
                f"[{rule}] groups[{k}]: expected a pattern that matches a parameter, received {spec['params']!r}"
            )
        members.append(found)
    groups: dict[tuple[int, ...], list[str]] = {}
    for name in names:
        groups.setdefault(tuple(k for k, found in enumerate(members) if name in found), []).append(name)
    return [
        (group, {key: value for k in key_specs for key, value in specs[k].items() if key != "params"})
        for key_specs, group in groups.items()
    ]


def layerwise_decay(layers: Sequence[Pattern], decay: float) -> list[GroupSpec]:
    """Groups whose learning rate shrinks by `decay` with each layer further from the output.

    layers  patterns from input to output; the last one keeps the full rate, the one before gets lr·decay, …
    decay   in (0, 1]; 1/2.6 in the source

    Source: discriminative fine-tuning, Howard & Ruder, ULMFiT (ACL 2018), section 3.2.
    """
    _check_layers("layerwise_decay", layers)
    decay = real(Place("layerwise_decay", "decay"), decay, SHARE)
    return [{"params": layer, "lr_scale": decay**k} for layer, k in zip(layers, _depths(layers), strict=True)]


def no_decay(params: Any) -> list[GroupSpec]:
    """A group without weight decay of all vectors and scalars among `params`: biases and norm scales.

    An empty list if there are none, so that it can be added to other groups.
    """
    names = [tree.dotted(path) for path, leaf in tree.leaves(params) if getattr(leaf, "ndim", 1) < 2]
    return [{"params": [glob.escape(name) for name in names], "weight_decay": 0.0}] if names else []


def gradual_unfreezing(layers: Sequence[Pattern], every: int) -> list[GroupSpec]:
    """Groups that start to move one after the other, from the output down.

    layers  patterns from input to output; the last one moves from the start, the one before after `every` steps, …
    every   steps between two layers

    Source: Howard & Ruder, ULMFiT (ACL 2018), section 3.3.
    """
    _check_layers("gradual_unfreezing", layers)
    every = integer(Place("gradual_unfreezing", "every"), every)
    return [{"params": layer, "frozen_until": every * k} for layer, k in zip(layers, _depths(layers), strict=True)]


def _check_layers(function: str, layers: Sequence[Pattern]) -> None:
    if isinstance(layers, (str, re.Pattern)) or not isinstance(layers, Sequence) or not layers:
        raise TypeError(f"[{function}] layers: expected patterns from input to output, received {layers!r}")


def _depths(layers: Sequence[Pattern]) -> range:
    """How far each layer is from the output."""
    return range(len(layers) - 1, -1, -1)
