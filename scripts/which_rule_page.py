#!/usr/bin/env python3
"""Writes table and picture of docs/which-rule.md from bench/results/which_rule.json; --check compares the table."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from fastupdate import rules
from fastupdate.demo import choosing

ROOT = Path(__file__).resolve().parent.parent
PAGE, FOUND = ROOT / "docs" / "which-rule.md", ROOT / "bench" / "results" / "which_rule.json"
PICTURE = ROOT / "docs" / "which_rule.png"
BEGIN, END = "<!-- begin of the table -->\n", "<!-- end of the table -->\n"


def row(found: dict[str, Any]) -> str:
    name = rules.get(found["rule"]).__name__
    cells = (
        f"[{name}](rules.md#{found['rule']})",
        f"{found['lr']:.3g}",
        f"{found['losses'][-1]:.2g}",
        f"{found['accuracies'][-1]:.1%}".replace("%", " %"),
        found["enough"] or "never",
        f"{found['seconds'] * 1e6:.0f} µs",
        f"{found['bytes']:.1f}",
    )
    return f"| {' | '.join(map(str, cells))} |\n"


def table(content: dict[str, Any]) -> str:
    order = sorted(content["rules"], key=lambda found: (-found["accuracies"][-1], found["losses"][-1]))
    enough = f"{content['enough']:.0%}".replace("%", " %")
    columns = (
        "learning rate",
        "training loss",
        "test accuracy",
        f"epochs to {enough}",
        "a step",
        "bytes of state per element",
    )
    return f"| rule | {' | '.join(columns)} |\n|---|---|---|---|---|---|---|\n" + "".join(map(row, order))


def main() -> int:
    page, content = PAGE.read_text(), json.loads(FOUND.read_text())
    before, _, rest = page.partition(BEGIN)
    written = before + BEGIN + table(content) + END + rest.partition(END)[2]
    if "--check" in sys.argv:
        if written != page:
            print(f"{PAGE.name} is not up to date: run scripts/which_rule_page.py", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(written)
    choosing.draw(content["rules"], choosing.title(content["data"], content["settings"]["seed"]), PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
