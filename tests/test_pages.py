"""The README and the pages: every block of Python runs and prints what stands below it, links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from peers import peer

import fastupdate as fu
from fastupdate.step.hypers import CLIP_LIMITS, SHARED

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```(?:\n\n```text\n(.*?)^```)?", re.DOTALL | re.MULTILINE)
NEEDS_A_DEVICE = {"gpu.md": "its arrays are in a GPU's memory"}


# A block that does not import fastupdate goes on where the one before it ends. Each page that has one, and why.
CONTINUES = {
    "checkpoints.md": "the file that was saved, by another optimizer",
    "gpu.md": "the same optimizer's step, captured",
    "own_rules.md": "the rule whose file is the block before",
    "partition.md": "the same parameters, with other options",
}


def programs() -> list[pytest.param]:
    """A page's blocks, one after the other as far as they continue each other: (code, what it prints in all)."""
    found = []
    for page in PAGES:
        before = expected = ""
        for k, (code, printed) in enumerate(BLOCK.findall(page.read_text(encoding="utf-8"))):
            alone = "import fastupdate" in code
            before, expected = (code, printed) if alone else (before + code, expected + printed)
            marks = [pytest.mark.peer] if "torch" in before or "mpi4py" in before else []
            if page.name in NEEDS_A_DEVICE:
                marks.append(pytest.mark.skip(reason=NEEDS_A_DEVICE[page.name]))
            found.append(pytest.param(before, expected, id=f"{page.stem}-{k}", marks=marks))
    return found


def test_examples_are_as_short_as_their_page_says():
    most = int(re.search(r"at most (\d+) lines", (ROOT / "docs/examples.md").read_text(encoding="utf-8")).group(1))
    lengths = {
        path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "examples").glob("*.py")
    }
    assert {name: n for name, n in lengths.items() if n > most} == {}


def ci_peers() -> set[str]:
    """What .ci/run installs beside the package itself, but for the tools of the style."""
    lines = re.findall(r"^pip install -q ((?:--no-deps )?\w[^#\n]*)", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    return {word.strip('"') for line in lines for word in line.split() if not word.startswith("-")}


def test_the_peers_that_ci_installs_are_told():
    told = re.search(r"beside peers:(.*?)\n\.venv", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)
    extras = {"lightning", "transformers", "accelerate", "mpi4py", "mpich"}  # .[trainers,mpi]
    assert ci_peers() - extras <= set(re.findall(r"[\w.=\[\]-]+", told.group(1)))


def test_blocks_run_by_themselves_but_for_those_that_go_on():
    blocks = [(page, code) for page in PAGES for code, _ in BLOCK.findall(page.read_text(encoding="utf-8"))]
    assert {page.name for page, code in blocks if "import fastupdate" not in code} == set(CONTINUES)


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
    assert done.stdout == printed or (not printed and not strict)


def test_the_page_of_the_api_has_every_public_name():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    modules = {name: getattr(fu, name) for name in ("groups", "monitoring", "rules", "schedules")}
    names = [name for name in fu.__all__ if name not in fu.optimizers.CLASSES and name not in modules]
    names += [f"{module}.{name}" for module, found in modules.items() for name in found.__all__]
    face = (ROOT / "fastupdate" / "torch" / "__init__.py").read_text(encoding="utf-8")
    names += [f"torch.{name}" for name in re.findall(r"import (\w+) as \1", face) if name != "Optimizer"]
    headings = set(re.findall(r"^##+ `fu\.([\w.]+)", page, re.MULTILINE))
    assert {*names} - headings == set()
    assert {"torch.Pieces", "Rows", "groups.no_decay"} <= headings
    for rules in ("torch.<Rule>", "sharded.<Rule>"):
        assert f"`fu.{rules}(" in page


def test_scripts_can_be_run_as_they_are_named():
    """Without `python` before it, a script begins with a line that says who runs it."""
    named = {name for page in PAGES for name in re.findall(r"(?<!python )(scripts/\w+\.\w+)", page.read_text("utf-8"))}
    assert len(named) > 5
    faults = [name for name in sorted(named) if not os.access(ROOT / name, os.X_OK) or script_of(name)[:2] != b"#!"]
    assert faults == []


def script_of(name):
    return (ROOT / name).read_bytes()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", without_blocks(page)):
        if "://" in target:
            continue
        there = page.parent / target if target else page
        assert there.exists(), target
        assert not anchor or there.suffix != ".md" or anchor in anchors(there), f"{target}#{anchor}"


GROUPS = {
    "docs/transfer_learning.md": "A group may set",
    "docs/torch.md": "Besides a rule's arguments",
    "fastupdate/torch/optimizer.py": "can differ between parameter",
}


@pytest.mark.parametrize("place", GROUPS)
def test_what_groups_may_set_beside_hyperparameters_is_told(place):
    text = (ROOT / place).read_text(encoding="utf-8")
    [paragraph] = [each for each in text.split("\n\n") if GROUPS[place] in each]
    assert {*SHARED} - {*CLIP_LIMITS} <= {*re.findall(r"\w+", paragraph)}


FILE = re.compile(r"(?<![\w./])(?:\w+/)*\w+\.(?:pyi?|cuh?|cpp|h|sh|md|in)\b(?:\.in\b)?")
TOLD = {".md": r"`([^`\n]+)`", ".py": r"(\w+/\S+)"}  # where files are named; else in comments of C++
ELSEWHERE = {"x.py", "x.h", "stages.h", "shim.h"}  # which users, the build and torch have


def test_files_that_pages_and_comments_name_are_there():
    tops = ("bench", "csrc", "docs", "examples", "fastupdate", "scripts", "tests")
    there = [*ROOT.glob("*.*"), *(path for top in tops for path in (ROOT / top).rglob("*.*"))]
    missing = set()
    for source in [*PAGES, *(ROOT / "fastupdate").rglob("*.py"), *(ROOT / "csrc").rglob("*.*")]:
        told = re.findall(TOLD.get(source.suffix, r"//(.*)"), without_blocks(source))
        named = {name for words in told for name in FILE.findall(words) if Path(name).name not in ELSEWHERE}
        missing |= {(source.name, name) for name in named if not any(f"{path}".endswith(f"/{name}") for path in there)}
    assert missing == set()


def without_blocks(page):
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


@cache
def anchors(page):
    """The names that GitHub gives to headings: small letters, digits, _ and -, spaces as -, again with -1, -2 …"""
    seen, names = Counter(), set()
    for heading in re.findall(r"^#+ +(.*?) *$", without_blocks(page), re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", heading).lower()).replace(" ", "-")
        names.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return names
