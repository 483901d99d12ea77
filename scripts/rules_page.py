#!/usr/bin/env python3
"""Writes docs/rules.md from the rules' docstrings; with --check, fails if the page is not up to date."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from fastupdate import rules

PAGE = Path(__file__).resolve().parent.parent / "docs" / "rules.md"
HEAD = """# Rules

Written by `scripts/rules_page.py` from the classes' docstrings. w: parameter, ∇L: gradient, λ: `weight_decay`.
Any hyperparameter may be a schedule (a function of the steps taken) and may differ between groups.
"""


def section(name: str) -> str:
    """One rule: its docstring, its signature, its hyperparameters and states."""
    cls = rules.get(name)
    signature = ", ".join(
        f"{p.name}={p.default}" for p in inspect.signature(cls).parameters.values() if p.default is not p.empty
    )
    ranges = "\n".join(f"| `{hyper}` | {interval} |" for hyper, interval in cls.rule.hypers.items())
    states = ", ".join(
        f"`{state}`" + (f" (with `{cls.rule.state_flags[state]}`)" if state in cls.rule.state_flags else "")
        for state in cls.rule.states
    )
    return f"""
<a id="{name}"></a>

## {cls.__name__}

`fu.{cls.__name__}(params, {signature})` · `fu.functional.{name}` · [`csrc/rules/{name}.h`](../csrc/rules/{name}.h)

{inspect.getdoc(cls)}

States: {states or "none"}.

| hyperparameter | expected |
|---|---|
{ranges}
"""


def main() -> int:
    page = HEAD + "".join(section(name) for name in rules.names())
    if "--check" in sys.argv:
        if PAGE.read_text() != page:
            print(f"{PAGE.name} is not up to date: run scripts/rules_page.py", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
