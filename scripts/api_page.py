#!/usr/bin/env python3
"""Writes docs/api.md from the docstrings of the public names; with --check, fails if the page is not up to date."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastupdate as fu
from fastupdate import monitoring, sharded
from fastupdate.step.options import Options

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "api.md"
HEAD = """# API

Written by `scripts/api_page.py` from the docstrings. The classes of the rules are in [rules.md](rules.md), a table of
schedules is in [options.md](options.md#schedules).
"""
RULES = "<Rule>(params, …, **options)"
HELPERS = [fu.groups.layerwise_decay, fu.groups.no_decay, fu.groups.gradual_unfreezing]
SCHEDULES = [getattr(fu.schedules, name) for name in fu.schedules.__all__]


def signature(name: str, thing: Any) -> str:
    """As it is called, without types: those are in the sources."""
    shown = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(thing).parameters.values()
        if parameter.name != "self"
    ]
    text = str(inspect.Signature(shown))
    return f"{name}{re.sub(r'<factory>|<[^>]* at 0x[0-9a-f]+>', '…', text)}"


def entry(level: int, heading: str, thing: Any) -> str:
    """A heading and a docstring, whose indented parts and tables of arguments are kept as they are."""
    return f"\n{'#' * level} `{heading}`\n\n```text\n{inspect.getdoc(thing) or ''}\n```\n"


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that a class defines itself, in the order of its text."""
    for name, member in vars(cls).items():
        if not name.startswith("_") and inspect.getdoc(member) and (callable(member) or isinstance(member, property)):
            yield name, member


def of_class(cls: type, heading: str | None = None) -> str:
    """heading: how a class is called that users do not make themselves, or not by this name."""
    text = entry(2, heading or signature(f"fu.{cls.__name__}", cls), cls)
    for name, member in members(cls):
        text += entry(3, name if isinstance(member, property) else signature(name, member), member)
    return text


def of_functions(title: str, prefix: str, functions: list[Any]) -> str:
    return f"\n## {title}\n" + "".join(entry(3, signature(prefix + f.__name__, f), f) for f in functions)


def of_torch(*names: str) -> Iterator[str]:
    """Entries read from the sources, for torch may not be there."""
    found: dict[str, ast.ClassDef | ast.FunctionDef] = {}
    for path in (ROOT / "fastupdate" / "torch").glob("*.py"):
        nodes = ast.parse(path.read_text(encoding="utf-8")).body
        found |= {node.name: node for node in nodes if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    for name in names:
        heading = RULES if name == "Optimizer" else f"{name}({arguments(found[name])})"
        yield f"\n### `fu.torch.{heading}`\n\n```text\n{ast.get_docstring(found[name])}\n```\n"


def arguments(node: ast.ClassDef | ast.FunctionDef) -> str:
    """What it is called with, without types."""
    if isinstance(node, ast.ClassDef):
        node = next(each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__")
        del node.args.args[0]
    for each in ast.walk(node.args):
        if isinstance(each, ast.arg):
            each.annotation = None
    return ast.unparse(node.args)


def page() -> str:
    with_ = entry(3, signature("with_", fu.Optimizer.with_), fu.Optimizer.with_)
    parts = [HEAD, of_class(fu.Optimizer, "fu.Optimizer"), with_, entry(2, "**options of every optimizer", Options)]
    parts += [entry(2, "fu.functional", fu.functional), of_class(fu.Partition), of_class(fu.Rows)]
    parts += [of_class(fu.Report, "fu.Report"), of_class(fu.LossScale), of_class(fu.Monitor)]
    parts.append("\n## With torch\n" + "".join(of_torch("Optimizer", "Partition", "Pieces", "in_backward")))
    parts.append(of_class(sharded.Optimizer, "fu.sharded.<Rule>(params, comm, …, *, pieces=None, **options)"))
    parts.append(of_functions("Monitoring", "fu.monitoring.", [monitoring.noise_scale, monitoring.NoiseScale]))
    parts.append(of_functions("Groups", "fu.groups.", HELPERS))
    parts.append(of_functions("Schedules", "fu.schedules.", SCHEDULES))
    parts.append(of_functions("Rules by name", "fu.rules.", [fu.rules.names, fu.rules.named, fu.rules.get]))
    others = [fu.load, fu.rule, fu.info, fu.get_num_threads, fu.set_num_threads]
    parts.append(of_functions("Other functions", "fu.", others))
    parts.append("\n## Errors\n" + "".join(entry(3, f"fu.{e.__name__}", e) for e in (fu.BusyError, fu.CheckpointError)))
    return "".join(parts)


def main() -> int:
    text = page()
    if "--check" in sys.argv:
        if PAGE.read_text(encoding="utf-8") != text:
            print(f"{PAGE.name} is not up to date: run scripts/api_page.py", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
