"""Parameter groups: which tensors share hyperparameters, chosen by patterns over their dotted names."""

from __future__ import annotations

import re
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, Sequence, ValuesView
from typing import Any

from fastupdate.arrays import tree
from fastupdate.arrays.numbers import SHARE, integer, real
from fastupdate.arrays.patterns import Finder, Pattern
from fastupdate.arrays.place import Place

__all__ = ["gradual_unfreezing", "layerwise_decay", "no_decay"]

GroupSpec = Mapping[str, Any]


def sort_into_groups(
    rule: str, sources: Mapping[str, Any], specs: Iterable[GroupSpec]
) -> list[tuple[list[str], dict[str, Any]]]:
    """Tensors that match the same specs form a group; where specs disagree, the later one holds.

    sources: the parameters by dotted name, as the user handed them in. Returns (names, overrides) per group, in the
    order of each group's first tensor.
    """
    if isinstance(specs, Mapping) or not isinstance(specs, Iterable):
        Place(rule, "groups").fail(TypeError, "a sequence of groups", repr(specs))
    specs = list(specs)
    if not specs:
        return [(list(sources), {})]
    find = Finder(sources)
    matched: dict[str, list[int]] = {name: [] for name in sources}
    for k, spec in enumerate(specs):
        place = Place(rule, f"groups[{k}]")
        if not isinstance(spec, Mapping) or "params" not in spec:
            place.fail(ValueError, "a mapping with a 'params' pattern", repr(spec))
        for name in find(Place(rule, f"groups[{k}]['params']"), spec["params"]):
            matched[name].append(k)
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, keys in matched.items():
        groups.setdefault(tuple(keys), []).append(name)
    return [
        (names, {key: value for k in keys for key, value in specs[k].items() if key != "params"})
        for keys, names in groups.items()
    ]


def taken_apart(rule: str, params: Any) -> tuple[Any, list[GroupSpec]]:
    """What torch takes beside plain structures: iterators, (name, array) pairs, and mappings that are groups.

    Returns a structure of arrays and the groups of them. Those of groups follow each other in one list, or in one
    mapping if they have names.
    """
    params = _structure(rule, params)
    if not isinstance(params, (list, tuple)) or not params:
        return params, []
    if not all(isinstance(group, Mapping) and "params" in group for group in params):
        return params, []
    parts = [_structure(rule, group["params"]) for group in params]
    parts = [part if tree.is_container(part) else [part] for part in parts]
    named = [isinstance(part, Mapping) for part in parts]
    if any(named) and not all(named):
        k = named.index(not named[0])
        kinds = ("a mapping, or pairs with names", "arrays without names")
        expected, received = kinds if named[0] else kinds[::-1]
        Place(rule, f"params[{k}]['params']").fail(ValueError, f"{expected}, as in the groups before", received)
    entries = [entry for part in parts for entry in (part.items() if named[0] else part)]
    specs = []
    for k, (group, part) in enumerate(zip(params, parts, strict=True)):
        of_group = tree.leaves(part, Place(rule, f"params[{k}]['params']"))
        specs.append({**group, "params": [leaf for _, leaf in of_group]})
    return (_named(rule, entries) if named[0] else entries), [spec for spec in specs if spec["params"]]


def _structure(rule: str, params: Any) -> Any:
    """Iterators as lists, and (name, array) pairs as dicts; anything else as it is."""
    if isinstance(params, (Iterator, KeysView, ValuesView, ItemsView)):
        params = list(params)
    if not isinstance(params, (list, tuple)) or not params:
        return params
    if all(isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) for pair in params):
        return _named(rule, params)
    return params


def _named(rule: str, pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, array in pairs:
        if name in found:
            Place(rule, "params").fail(ValueError, "a name of its own for each array", f"{name!r} twice")
        found[name] = array
    return found


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

    params  as an optimizer takes them

    An empty list if there are none, so that it can be added to other groups.
    """
    place = Place("no_decay", "params")
    if hasattr(params, "parameters"):
        place.fail(TypeError, "model.parameters(), or other arrays", type(params).__name__)
    params, _ = taken_apart("no_decay", params)
    vectors = {tree.dotted(path): True for path, leaf in tree.leaves(params, place) if getattr(leaf, "ndim", 1) < 2}
    return [{"params": vectors, "weight_decay": 0.0}] if vectors else []


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


def __dir__() -> list[str]:
    """What makes groups, not what reads them."""
    return __all__
