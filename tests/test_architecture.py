"""docs/architecture.md says which room imports which; this holds the code against it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "fastupdate"
PAGE = PACKAGE.parent / "docs" / "architecture.md"
UPWARDS = {("engines/cuda.py", "step")}  # as the page says
TOP = {"__init__", "__main__"}


def rows() -> list[list[str]]:
    """The rooms of each row of the table, from the top."""
    lines = re.findall(r"^\| (`fastupdate/.*?) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return [
        [name.removeprefix("fastupdate/").strip("/").removesuffix(".py") for name in re.findall("`(.*?)`", line)]
        for line in lines
    ]


def imported(path: Path) -> Iterator[str]:
    """The rooms that a module imports when it is imported itself."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "fastupdate":
            yield from (f"{node.module}.{name.name}".split(".")[1] for name in node.names)


def test_every_room_is_in_the_table():
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms - TOP == {room for row in rows() for room in row}


def test_no_room_imports_one_above_it():
    height = {room: -k for k, row in enumerate(rows()) for room in row}
    upwards = set()
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE)
        room = name.parts[0].removesuffix(".py")
        if room not in TOP:
            upwards |= {(str(name), to) for to in imported(path) if to in height and height[to] > height[room]}
    assert upwards == UPWARDS
