"""`fastupdate rule adamw`: prints a rule as it is written, or in C++."""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path
from typing import Any

from fastupdate import rules
from fastupdate.rules.emit import emit


def add_command(commands: Any) -> None:
    """Adds the command to the parser's list of them."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "rule",
        help="print the formula of a rule, in Python or C++",
        description="Print the one text of a rule, from which everything is compiled, or the C++ that the build makes "
        "of it.",
    )
    parser.add_argument("name", metavar="NAME", help=", ".join(rules.names()))
    parser.add_argument("--cpp", action="store_true", help="the C++ struct instead of the Python")
    parser.set_defaults(run=_run, parser=parser)


def _run(args: argparse.Namespace) -> int:
    try:
        name = rules.named(args.name)
    except ValueError as error:
        args.parser.error(str(error))
    files = files_of(rules.get(name).rule.formula)
    print(emit(files[-1]) if args.cpp else "\n\n".join(text(path) for path in files), end="")
    return 0


def files_of(formula: type) -> list[Path]:
    """Where a rule is written: the files of the rules that it builds on, then its own."""
    return list(dict.fromkeys(Path(inspect.getfile(cls)) for cls in reversed(formula.__mro__[:-1])))


def text(path: Path) -> str:
    return f"# fastupdate/rules/{path.name}\n{path.read_text(encoding='utf-8')}"
