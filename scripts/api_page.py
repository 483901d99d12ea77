#!/usr/bin/env python3
"""Writes docs/api.md from the docstrings of the public names; with --check, fails if the page is not up to date."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastupdate as fu
from fastupdate import monitoring
from fastupdate.step.options import Options

PAGE = Path(__file__).resolve().parent.parent / "docs" / "api.md"
HEAD = """# API

Written by `scripts/api_page.py` from the docstrings. The classes of the rules are in [rules.md](rules.md), a table of
schedules is in [options.md](options.md#schedules).
"""
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


def of_class(cls: type, *, made_by_user: bool = True) -> str:
    name = f"fu.{cls.__name__}"
    text = entry(2, signature(name, cls) if made_by_user else name, cls)
    for name, member in members(cls):
        text += entry(3, name if isinstance(member, property) else signature(name, member), member)
    return text


def of_functions(title: str, prefix: str, functions: list[Any]) -> str:
    return f"\n## {title}\n" + "".join(entry(3, signature(prefix + f.__name__, f), f) for f in functions)


def page() -> str:
    parts = [HEAD, of_class(fu.Optimizer, made_by_user=False), entry(2, "**options of every optimizer", Options)]
    parts += [entry(2, "fu.functional", fu.functional)]
    parts += [of_class(fu.Report, made_by_user=False), of_class(fu.LossScale), of_class(fu.Monitor)]
    parts.append(of_functions("Monitoring", "fu.monitoring.", [monitoring.noise_scale]))
    parts.append(of_functions("Groups", "fu.groups.", HELPERS))
    parts.append(of_functions("Schedules", "fu.schedules.", SCHEDULES))
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
