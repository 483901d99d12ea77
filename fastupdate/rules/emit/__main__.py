"""python fastupdate/rules/emit OUT: writes OUT/x.h for every rule of the library, and prints their names."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where this package can be found without the library around it

from emit.source import RULES, RefusedError, Source
from emit.struct import Struct


def main(out: Path) -> None:
    """Writes what has changed, so that no more is compiled than must be."""
    sources = [source for source in map(Source, sorted(RULES.glob("*.py"))) if source.rules]
    structs = {source.path.stem: Struct(source, source.rules[0]) for source in sources}
    out.mkdir(parents=True, exist_ok=True)
    for name, struct in structs.items():
        if struct.name != name:
            raise struct.source.refused(struct.node, f"{name}.py is expected to hold a class of that name")
        file, text = out / f"{name}.h", struct.text()
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
    print("\n".join(structs))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except RefusedError as error:
        sys.exit(str(error))
