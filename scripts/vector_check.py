#!/usr/bin/env python3
"""Compiles the CPU kernels and fails if a loop over a rule or a stage (`#pragma omp simd`) is not vectorized; GCC alone
says so.

A loop that stays scalar has the same bits and takes three times as long, so that no test would see it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEVELS = ("cpu_v3", "cpu_v4")  # CMake's targets
MISSED = re.compile(r"^(/[^:]+):(\d+):\d+: missed: couldn't vectorize loop$", re.MULTILINE)


@cache
def marked(path: Path) -> set[int]:
    """The lines of a file that are in marked loops over a rule or a stage."""
    found: set[int] = set()
    lines = path.read_text().splitlines()
    for at, line in enumerate(lines):
        if line.strip().startswith("#pragma omp simd"):
            head = lines[at + 1]
            depth = len(head) - len(head.lstrip())
            end = at + 2
            if head.rstrip().endswith("{"):
                while lines[end].strip() != "}" or len(lines[end]) - 1 != depth:
                    end += 1
            else:
                end += not head.rstrip().endswith(";")
            if re.search(r"\b(rule|stage)[.(]", " ".join(lines[at + 1 : end])):
                found |= set(range(at + 1, end + 1))
    return found


def compiled() -> str:
    """What the compiler says while it compiles all kernels."""
    with tempfile.TemporaryDirectory() as build:
        given = {**os.environ, "CXXFLAGS": "-fopt-info-vec-missed"}
        configure = [
            "cmake",
            "-S",
            str(ROOT),
            "-B",
            build,
            "-DFASTUPDATE_CUDA=OFF",
            f"-DPython_EXECUTABLE={sys.executable}",
        ]
        pybind11 = subprocess.run(
            [sys.executable, "-m", "pybind11", "--cmakedir"], check=True, capture_output=True, text=True
        ).stdout.strip()
        subprocess.run([*configure, f"-Dpybind11_DIR={pybind11}"], check=True, env=given, stdout=subprocess.DEVNULL)
        command = ["cmake", "--build", build, "-j", str(os.cpu_count()), "--target", *LEVELS]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return done.stdout + done.stderr


def main() -> int:
    said = compiled()
    if "missed:" not in said:
        print("the compiler says nothing of loops: this needs GCC", file=sys.stderr)
        return 1
    places = {(Path(path).resolve(), int(line)) for path, line in MISSED.findall(said)}
    scalar = sorted(f"{path.relative_to(ROOT)}:{line}" for path, line in places if line in marked(path))
    for place in scalar:
        print(f"{place}: a loop over a rule or a stage stays scalar", file=sys.stderr)
    print(f"{len({path for path, _ in places})} files with scalar loops, {len(scalar)} of them over a rule or a stage")
    return bool(scalar)


if __name__ == "__main__":
    sys.exit(main())
