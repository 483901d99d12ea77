#!/usr/bin/env python3
"""Writes the types of the optimizer classes, also for torch and over MPI; with --check, fails if others are there."""

from __future__ import annotations

import math
import runpy
import sys
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fastupdate import optimizers, rules
from fastupdate.rules.rule import UP_TO_FIVE

PACKAGE = Path(__file__).resolve().parent.parent / "fastupdate"
NAMES = runpy.run_path(str(PACKAGE / "torch" / "names.py"))  # by itself, it needs no torch
DECOUPLING, DEFAULTS, FIXED, POSITIONAL = (NAMES[name] for name in ("DECOUPLING", "DEFAULTS", "FIXED", "POSITIONAL"))
HEAD = '''"""Written by scripts/stub.py from the rules: what each optimizer class takes."""

from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from typing import Any, TypeVar, Unpack

from fastupdate.optimizer import Optimizer
from fastupdate.rules.rule import Rule
from fastupdate.step.options import Options

_Scheduled = float | Callable[[int], float]  # a number, or a function of the steps taken
T = TypeVar("T")

CLASSES: Mapping[str, type[Optimizer]]
OTHERS: Parameter

def arguments(rule: Rule) -> dict[str, Any]: ...
def check_arguments(rule: Rule, values: Mapping[str, Any]) -> None: ...
def make(rule: Rule, module: str) -> type[Optimizer]: ...
def dividing(cls: type[T], divided: Callable[..., Any]) -> type[T]: ...
def class_of(
    rule: Rule,
    base: type[T],
    module: str,
    doc: str,
    construct: Callable[..., None],
    *further: Parameter,
    defaults: Mapping[str, Any] = ...,
    positional: Sequence[str] | None = ...,
) -> type[T]: ...
def page(rule: Rule, params: str = ...) -> str: ...
def rule(formula: type) -> type[Optimizer]: ...
'''
TORCH = '''"""Written by scripts/stub.py from the rules: what each optimizer class for torch takes."""

from typing import Any, Unpack

from torch import Tensor

from fastupdate.step.options import Options
from fastupdate.torch.backward import Arrivals as Arrivals
from fastupdate.torch.backward import in_backward as in_backward
from fastupdate.torch.optimizer import Optimizer as Optimizer
from fastupdate.torch.partition import Partition as Partition
from fastupdate.torch.pieces import Pieces as Pieces

_Number = float | Tensor  # of one element
'''
SHARDED = '''"""Written by scripts/stub.py from the rules: what each optimizer class over MPI takes."""

from collections.abc import Callable, Mapping
from typing import Any, Unpack

from fastupdate.sharded.optimizer import Optimizer as Optimizer
from fastupdate.step.options import Options

_Scheduled = float | Callable[[int], float]  # a number, or a function of the steps taken

CLASSES: Mapping[str, type[Optimizer]]
'''
OTHERS = ["*", "others: Any = None"]
PIECES = ["*", "pieces: int | None = None"]
SWITCHES = [
    "*",
    "foreach: bool | None = None",
    "capturable: bool = False",
    "differentiable: bool = False",
    "fused: bool | None = None",
]


def argument(default: object, number: str) -> str:
    """The type of an argument, and its default."""
    if isinstance(default, tuple) and len(default) == len(UP_TO_FIVE):
        return f"tuple[{number}, ...] = {default}"  # some may be left out
    if isinstance(default, tuple):
        return f"tuple[{', '.join(number if x is not None else f'{number} | None' for x in default)}] = {default}"
    return f"{'bool' if isinstance(default, bool) else number} = {'...' if default == math.inf else default}"


def class_of(
    name: str,
    number: str,
    switches: list[str],
    *leading: str,
    defaults: Mapping[str, Any] = MappingProxyType({}),
    positional: Sequence[str] | None = None,
) -> str:
    """The stub of one class; defaults: of some arguments, instead of the rule's; positional: those that come first."""
    rule = rules.get(name).rule
    taken = {**optimizers.arguments(rule), **defaults}
    given = [f"{key}: {argument(default, number)}" for key, default in taken.items()]
    if positional is not None:  # up to `maximize`, which is an option
        named = {line.partition(":")[0]: line for line in (*given, *switches)}
        first = [named.pop(key) for key in takewhile(lambda key: key in named, positional)]
        given, switches = [*first, "*"], [line for line in named.values() if line != "*"]
    lines = ["self", "params: Any", *leading, *given, *switches, "**options: Unpack[Options]"]
    body = "".join(f"        {line},\n" for line in lines)
    return f"\nclass {rule.formula.__name__}(Optimizer):\n    def __init__(\n{body}    ) -> None: ...\n"


def switches(name: str) -> list[str]:
    """What a class for torch takes beside the rule's own arguments."""
    decoupled = ["decoupled_weight_decay: bool = False"] if name in DECOUPLING else []
    fixed = [
        f"{key}: {'str | None' if value is None else type(value).__name__} = {value!r}"
        for key, (value, _) in FIXED.get(name, {}).items()
    ]
    return [*SWITCHES, *decoupled, *fixed, *(OTHERS[1:] if rules.get(name).rule.matrix else [])]


def main() -> int:
    stubs = {
        PACKAGE / "optimizers.pyi": HEAD
        + "".join(
            class_of(name, "_Scheduled", OTHERS if rules.get(name).rule.matrix else []) for name in rules.names()
        ),
        PACKAGE / "torch" / "__init__.pyi": TORCH
        + "".join(
            class_of(name, "_Number", switches(name), defaults=DEFAULTS.get(name, {}), positional=POSITIONAL.get(name))
            for name in rules.names()
        ),
        PACKAGE / "sharded" / "__init__.pyi": SHARDED
        + "".join(class_of(name, "_Scheduled", PIECES, "comm: Any") for name in rules.names()),
    }
    for path, text in stubs.items():
        if "--check" not in sys.argv:
            path.write_text(text)
        elif path.read_text() != text:
            print(f"{path.name} is not up to date: run scripts/stub.py", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
