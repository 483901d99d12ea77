#!/usr/bin/env python3
"""Writes fastupdate/optimizers.pyi, the types of the optimizer classes; with --check, fails if it is not up to date."""

from __future__ import annotations

import sys
from pathlib import Path

from fastupdate import optimizers, rules

STUB = Path(__file__).resolve().parent.parent / "fastupdate" / "optimizers.pyi"
HEAD = '''"""Written by scripts/stub.py from the rules: what each optimizer class takes."""

from collections.abc import Callable, Mapping
from typing import Any, Unpack

from fastupdate.optimizer import Optimizer
from fastupdate.rules.rule import Rule
from fastupdate.step.options import Options

_Scheduled = float | Callable[[int], float]  # a number, or a function of the steps taken

CLASSES: Mapping[str, type[Optimizer]]

def arguments(rule: Rule) -> dict[str, Any]: ...
def make(rule: Rule, module: str) -> type[Optimizer]: ...
def page(rule: Rule, params: str = ...) -> str: ...
def rule(formula: type) -> type[Optimizer]: ...
'''


def argument(default: object) -> str:
    """The type of an argument, and its default."""
    if isinstance(default, tuple):
        return f"tuple[{', '.join('_Scheduled' for _ in default)}] = {default}"
    return f"{'bool' if isinstance(default, bool) else '_Scheduled'} = {default}"


def class_of(name: str) -> str:
    """The stub of one class."""
    rule = rules.get(name).rule
    given = [f"{key}: {argument(default)}" for key, default in optimizers.arguments(rule).items()]
    lines = ["self", "params: Any", *given, "**options: Unpack[Options]"]
    body = "".join(f"        {line},\n" for line in lines)
    return f"\nclass {rule.formula.__name__}(Optimizer):\n    def __init__(\n{body}    ) -> None: ...\n"


def main() -> int:
    text = HEAD + "".join(map(class_of, rules.names()))
    if "--check" not in sys.argv:
        STUB.write_text(text)
    elif STUB.read_text() != text:
        print(f"{STUB.name} is not up to date: run scripts/stub.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
