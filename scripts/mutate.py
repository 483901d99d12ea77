#!/usr/bin/env python3
"""Seeds bugs one at a time into a copy of the sources and checks that the tests catch each of them.

    scripts/mutate.py [words in a mutant's name …]

Prints a table; the exit status is 1 if a mutant survives, or if the text that it replaces is no longer there.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mutants import MUTANTS

ROOT = Path(__file__).resolve().parents[1]
HANGS = 10  # times as long as the same tests without a mutant, whatever else the machine does
SOURCES = ["csrc", "cmake", "fastupdate", "tests", "scripts", "CMakeLists.txt", "pyproject.toml"]


class Copy:
    """A copy of the sources with a build of its own: few rules, one instruction set, less optimisation, for speed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in SOURCES:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
            else:
                shutil.copy(source, root / name)
        self.keep_few_rules()
        self.replace("cmake/kernels.cmake", "set(isa_levels v2 v3 v4)", "set(isa_levels v3)")
        self.replace("cmake/kernels.cmake", "PRIVATE -O3", "PRIVATE -O2")
        shutil.copy(root / "scripts/first_on_path.py", root / "sitecustomize.py")
        pybind11 = self.run([sys.executable, "-m", "pybind11", "--cmakedir"]).stdout.strip()
        self.run(["cmake", "-S", ".", "-B", "tree", "-G", "Ninja", f"-DPython_EXECUTABLE={sys.executable}",
                  f"-Dpybind11_DIR={pybind11}", "-DCMAKE_CXX_FLAGS_RELEASE=-O1", "-DFASTUPDATE_CUDA=OFF"])  # fmt: skip

    def keep_few_rules(self) -> None:
        """Those that the frame is tested with: HYPERS and PHASED_HYPERS of tests/cases.py."""
        tables = [node.value for node in ast.parse((self.root / "tests/cases.py").read_text()).body
                  if isinstance(node, ast.AnnAssign) and "HYPERS" in ast.unparse(node.target)]  # fmt: skip
        kept = {ast.literal_eval(key) for table in tables if isinstance(table, ast.Dict) for key in table.keys if key}
        ask = "from fastupdate import rules; print(*rules.names())"
        for name in {*self.run([sys.executable, "-c", ask]).stdout.split()} - kept:
            (self.root / f"fastupdate/rules/{name}.py").unlink()

    def run(
        self, command: list[str], check: bool = True, limit: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.root),
            "PYTHONSAFEPATH": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "FASTUPDATE_TEST_BACKENDS": "native",
            "FASTUPDATE_TEST_EXAMPLES": "60",
        }
        done = subprocess.run(
            command,
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
        if check and done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
        return done

    def replace(self, file: str, old: str, new: str) -> str:
        """Returns the text as it was."""
        text = (self.root / file).read_text()
        if text.count(old) != 1:
            raise SystemExit(f"{file}: expected once, found {text.count(old)} times: {old}")
        (self.root / file).write_text(text.replace(old, new))
        return text

    def build(self) -> None:
        self.run(["cmake", "--build", "tree"])
        for module in (self.root / "tree").glob("_core*.so"):
            shutil.copy(module, self.root / "fastupdate")

    def failure(self, tests: str, limit: float | None = None) -> str | None:
        """The first test that fails, or that they take longer than so many seconds; None if all pass."""
        command = [sys.executable, "-m", "pytest", "-n0", "-x", "-q", "-p", "no:cacheprovider", *tests.split(" ")]
        try:
            done = self.run(command, check=False, limit=limit)
        except subprocess.TimeoutExpired:
            return f"{tests}, which hangs"
        if done.returncode == 0:
            return None
        found = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
        return found[1] if found else f"pytest exited with {done.returncode}: {(done.stdout + done.stderr)[-300:]!r}"


def main() -> int:
    words = sys.argv[1:]
    mutants = [m for m in MUTANTS if not words or any(word in m.name for word in words)]
    survivors = 0
    with tempfile.TemporaryDirectory() as directory:
        copy = Copy(Path(directory))
        for mutant in mutants:  # all texts are there, before minutes go by
            (copy.root / mutant.file).write_text(copy.replace(mutant.file, mutant.old, mutant.new))
        copy.build()
        limits = {}
        for tests in dict.fromkeys(mutant.tests for mutant in mutants):
            begin = time.monotonic()
            broken = copy.failure(tests)
            limits[tests] = HANGS * (time.monotonic() - begin)
            if broken:
                raise SystemExit(f"without a mutant, {broken} fails: nothing can be told")
        print(f"{'mutant':<36}{'seconds':>8}  caught by", flush=True)
        for mutant in mutants:
            begin = time.monotonic()
            original = copy.replace(mutant.file, mutant.old, mutant.new)
            copy.build()
            caught = copy.failure(mutant.tests, limits[mutant.tests])
            survivors += caught is None
            print(f"{mutant.name:<36}{time.monotonic() - begin:>8.1f}  {caught or 'NOTHING: it survives'}", flush=True)
            (copy.root / mutant.file).write_text(original)
    print(f"{len(mutants) - survivors} of {len(mutants)} caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
