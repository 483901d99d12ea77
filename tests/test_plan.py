"""The C++ plan knows no Python: its tests are a program of their own (tests/plan), which is built and run here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).parent / "plan"


def test_the_plan_without_python(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    missing = [tool for tool in ("cmake", "ninja", "c++") if shutil.which(tool, path=path) is None]
    if missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"the program needs {', '.join(missing)}")
    configure = ["cmake", "-S", SOURCES, "-B", tmp_path, "-G", "Ninja", f"-DPython_EXECUTABLE={sys.executable}"]
    for command in (configure, ["cmake", "--build", tmp_path], [tmp_path / "plan"]):
        done = subprocess.run(
            list(map(str, command)), env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "all of it holds\n"
