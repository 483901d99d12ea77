"""python fastupdate/rules/emit OUT: writes OUT/rules/x.h for every rule of the library and OUT/stages.h for the
stages around them, and prints the names of the rules."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where this package can be found without the library around it

from emit.source import RULES, RefusedError, Source
from emit.stage import emit_stages
from emit.struct import Struct


def main(out: Path) -> None:
    """Writes what has changed, so that no more is compiled than must be."""
    sources = [source for source in map(Source, sorted(RULES.glob("*.py"))) if source.rules]
    structs = {source.path.stem: Struct(source, source.rules[0]) for source in sources}
    for name, struct in structs.items():
        if struct.name != name:
            raise struct.source.refused(struct.node, f"{name}.py is expected to hold a class of that name")
        write(out / "rules" / f"{name}.h", struct.text())
    write(out / "stages.h", emit_stages())
    print("\n".join(structs))


def write(file: Path, text: str) -> None:
    """Leaves a file alone that has this text already."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except RefusedError as error:
        sys.exit(str(error))
