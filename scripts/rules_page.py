#!/usr/bin/env python3
"""Writes docs/rules.md from the rules' docstrings; with --check, fails if the page is not up to date."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from fastupdate import rules
from fastupdate.rules.rule import Factor, Flag, Hyper, State, declared

PAGE = Path(__file__).resolve().parent.parent / "docs" / "rules.md"
HEAD = """# Rules

Written by `scripts/rules_page.py` from `fastupdate/rules`; `fastupdate rule adamw` prints a rule, with `--cpp` in C++.
w: parameter, ∇L: gradient, λ: `weight_decay`.
Any hyperparameter may be a schedule (a function of the steps taken) and may differ between groups.
"""


def section(name: str) -> str:
    """One rule: its signature, its docstring, its states and arguments."""
    cls = rules.get(name)
    signature = ", ".join(
        f"{p.name}={p.default}" for p in inspect.signature(cls).parameters.values() if p.default is not p.empty
    )
    hypers, flags, states = (declared(cls.rule.formula, kind) for kind in (Hyper, Flag, State))
    arguments = [f"| `{key}` | {hyper.meaning} | {hyper.interval} |" for key, hyper in hypers.items()]
    arguments += [f"| `{key}` | {flag.meaning} | a bool |" for key, flag in flags.items() if flag.when is None]
    table = "\n".join(arguments)
    kept = [f"`{key}`: {s.meaning}{f' (with `{s.when}`)' if s.when else ''}" for key, s in states.items()]
    kept += [f"`{key}`: {factor.meaning}" for key, factor in declared(cls.rule.formula, Factor).items()]
    file = f"fastupdate/rules/{name}.py"
    return f"""
<a id="{name}"></a>

## {cls.__name__}

`fu.{cls.__name__}(params, {signature})` · `fu.functional.{name}` · [`{file}`](../{file})

{inspect.getdoc(cls.rule.formula)}

States: {"; ".join(kept) or "none"}.

| argument | what it is | expected |
|---|---|---|
{table}
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
