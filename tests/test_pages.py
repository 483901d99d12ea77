"""The README and the pages: every block of Python runs as a reader would run it, links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from peers import peer

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```(?:\n\n```text\n(.*?)^```)?", re.DOTALL | re.MULTILINE)
NEEDS_A_DEVICE = {"gpu.md": "its arrays are in a GPU's memory"}


def programs() -> list[pytest.param]:
    """A page's blocks, one after the other as far as they continue each other: (page, code, what it prints)."""
    found = []
    for page in PAGES:
        before = ""
        for k, (code, printed) in enumerate(BLOCK.findall(page.read_text(encoding="utf-8"))):
            alone = "import fastupdate" in code
            before = code if alone else before + code
            marks = [pytest.mark.peer] if "torch" in before or "mpi4py" in before else []
            if page.name in NEEDS_A_DEVICE:
                marks.append(pytest.mark.skip(reason=NEEDS_A_DEVICE[page.name]))
            found.append(pytest.param(before, printed if alone else "", id=f"{page.stem}-{k}", marks=marks))
    return found


@pytest.mark.parametrize(("code", "printed"), programs())
def test_blocks_run(code, printed, tmp_path):
    for name in sorted(
        set(re.findall(r"^(?:import|from) (torch|lightning|transformers|accelerate|mpi4py)\b", code, re.MULTILINE))
    ):
        peer(name)
    strict = "lightning" not in code and "transformers" not in code  # which warn as they please
    command = [sys.executable, *(["-W", "error"] if strict else []), "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not printed or done.stdout == printed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        assert "://" in target or (page.parent / target).exists(), target
