"""Which rule has which parameters, where several share them (fastupdate/partition.py)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from fastupdate.arrays.patterns import Finder
from fastupdate.arrays.place import Place
from fastupdate.optimizer import Optimizer
from fastupdate.step.options import Options

Recipe = partial[Optimizer] | type[Optimizer]  # what `with_` returns, or a class as it is

# The options that a rule of a partition may have of its own; the others are decided once, for all of them.
OWN = {"decay", "peak_lr", "l1", "l1_mode", "clip_value", "clip_tensor_norm", "clip_unit_norm", "groups", "state"}


def check_recipe(place: Place, recipe: Any) -> None:
    """Raises for what makes no optimizer, or sets for one rule what is an option of all."""
    kind = recipe.func if isinstance(recipe, partial) else recipe
    if not isinstance(kind, type) or not issubclass(kind, Optimizer) or (isinstance(recipe, partial) and recipe.args):
        place.fail(TypeError, "an optimizer class, or what its with_(…) returns", repr(recipe))
    for name in recipe.keywords if isinstance(recipe, partial) else ():
        if name in Options.__annotations__ and name not in OWN:
            place.fail(ValueError, f"no {name}, which is an option of the whole optimizer", f"{name} for one rule")


def shares(given: Mapping[str, Any], rules: Any) -> Iterator[tuple[list[str], Recipe]]:
    """The names of each rule's parameters, in the order of all."""
    if isinstance(rules, Mapping) or not isinstance(rules, Iterable):
        Place("partition", "rules").fail(TypeError, "(pattern, rule) pairs, as [('*', fu.AdamW)]", repr(rules))
    find = Finder(given)
    rest = list(given)
    for k, pair in enumerate(rules):
        place = Place("partition", f"rules[{k}]")
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            place.fail(TypeError, "a pair of a pattern and a rule", repr(pair))
        pattern, recipe = pair
        check_recipe(place, recipe)
        found = find(place, pattern)
        names = [name for name in rest if name in found]
        if not names:
            place.fail(ValueError, "a pattern that matches a parameter which no earlier one does", repr(pattern))
        rest = [name for name in rest if name not in found]
        yield names, recipe
    if rest:
        Place("partition", "rules").fail(ValueError, "patterns that match every parameter", f"none for {rest[0]!r}")


def made(recipe: Recipe, params: Any, groups: list[Any], options: Mapping[str, Any]) -> Optimizer:
    """The optimizer of one rule, with the options of all but for its own."""
    own = recipe.keywords if isinstance(recipe, partial) else {}
    shared = {name: value for name, value in options.items() if name not in own}
    return recipe(params, **{**shared, "groups": [*groups, *own.get("groups", ())]})
