#!/usr/bin/env python3
"""What takes too long for every change: sanitizers, mutants, cross-builds, oldest dependencies, long fuzzing.

    scripts/nightly.py [words in a row's name …]

Runs the rows, two at a time, and prints a table in Markdown; the exit status is 1 if one did not hold. The output of
each goes to build/nightly. Needs `.[dev]`; rows whose compiler is missing say so. CMAKE_CXX_COMPILER_LAUNCHER=ccache
in the environment spares what was compiled before.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LOGS = ROOT / "build" / "nightly"
PYTHON = [sys.executable]
PYTEST = [*PYTHON, "-m", "pytest", "-n0", "-q", "-p", "no:cacheprovider"]
LIMIT = 4800  # seconds for one command
AT_ONCE = 2  # rows, each of which keeps about one core busy

Command = list[str]


class Row(NamedTuple):
    """One row of the table.

    commands   run one after the other, or a function that prepares and returns them
    counted    what is told of its output: the last match, or how many there are if it has no group
    """

    name: str
    commands: list[Command] | Callable[[], list[Command]]
    counted: str
    environment: Mapping[str, str] = {}


PASSED = r"(\d+ passed.*?) in "


def oldest() -> list[Command]:
    """An environment with the oldest version of every dependency that pyproject.toml allows, and the tests in it."""
    folder = LOGS / "oldest"
    shutil.rmtree(folder, ignore_errors=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + [
        line for name in ("numba", "tensorboard", "checkpoint", "demo", "test") for line in extras[name]
    ]
    pins = sorted({line.replace(">=", "==") for line in wanted if not line.startswith("fastupdate")})
    python = str(folder / "bin" / "python")
    site = folder / "site"
    build = ["cmake", "-S", str(ROOT), "-B", str(folder / "tree"), "-G", "Ninja", f"-DPython_EXECUTABLE={python}"]
    copy = f"mkdir -p {site} && cp -r {ROOT}/fastupdate {site}/ && rm -f {site}/fastupdate/*.so"
    return [
        [*PYTHON, "-m", "venv", str(folder)],
        [python, "-m", "pip", "install", "-q", *pins, "pyparsing<3.3"],  # a later one warns of the oldest matplotlib
        ["sh", "-c", f'"$@" -Dpybind11_DIR=$({python} -m pybind11 --cmakedir) -DFASTUPDATE_CUDA=OFF', "", *build],
        ["cmake", "--build", str(folder / "tree")],
        [
            "sh",
            "-c",
            f"{copy} && cp {folder}/tree/_core*.so {site}/fastupdate/ && {python} -m pip list --format freeze",
        ],
        [
            "env",
            f"PYTHONPATH={site}",
            python,
            "-m",
            "pytest",
            "-n0",
            "-q",
            "-p",
            "no:cacheprovider",
            "-m",
            "not peer",
            "-o",
            "filterwarnings=default",
            "tests",
        ],
    ]


def allocations() -> list[Command]:
    """Every allocation of every call, of CPython's own and of the C library."""
    library = LOGS / "allocations.so"
    build = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), "tests/allocations.c"]
    script = [*PYTHON, "tests/allocations.py"]
    return [build, [*script, "python"], ["env", f"LD_PRELOAD={library}", "PYTHONMALLOC=malloc", *script, "malloc"]]


SANITIZED = ["tests/test_properties.py", "tests/test_safety.py", "tests/test_rebound_parameters.py",
             "tests/test_autograd_is_told.py", "tests/test_errors.py", "tests/test_overlaps.py",
             "tests/test_bad_numbers.py", "tests/test_containers.py", "tests/test_layouts.py",
             "tests/test_functional.py", "tests/test_functional_refused.py", "tests/test_state.py",
             "tests/test_wrong_states.py", "tests/test_own_states.py", "tests/test_averages.py"]  # fmt: skip

PRODUCT = ["parity", "phases", "further_phases", "own_rules", "options", "rules", "fingerprints", "properties",
           "bad_numbers", "cuda_engine", "cuda_mutants"]  # fmt: skip
ON_CPUS = ["parity", "phases", "rules", "windows", "diagnosis"]

ROWS = [
    Row("address and undefined-behaviour sanitizers", [["scripts/sanitize.sh", *SANITIZED]], PASSED,
        {"FASTUPDATE_TEST_EXAMPLES": "1000"}),
    Row("seeded bugs", [[*PYTHON, "scripts/mutate.py"]], r"(\d+ of \d+ caught)"),
    Row("the same bits on x86-64 and aarch64", [["scripts/cross_bits.sh"]], r"(?m)^(?:x86-64|aarch64) .*$"),
    Row("every rule in all its cases, by Numba and on the stand-in of a GPU",
        [[*PYTEST, *(f"tests/test_{name}.py" for name in PRODUCT),
          "-k", "numba or gpus or bytes_of_the_cpu or own or faults"]], PASSED, {"FASTUPDATE_TEST_PRODUCT": "1"}),
    Row("the native engine under all options in all layouts, and diagnoses of every seed",
        [[*PYTEST, *(f"tests/test_{name}.py" for name in ON_CPUS), "-k", "not (numba or gpus or own)"]], PASSED,
        {"FASTUPDATE_TEST_PRODUCT": "1"}),
    Row("oldest dependencies", oldest, PASSED),
    Row("10⁴ random histories, 25 a test", [[*PYTEST, "tests/test_histories.py", "--histories", "5000"]], PASSED),
    Row("generated calls, 10⁴ for each rule", [[*PYTEST, "tests/test_properties.py"]], PASSED,
        {"FASTUPDATE_TEST_EXAMPLES": "2500", "FASTUPDATE_TEST_BACKENDS": "native"}),
    Row("each allocation of 18 calls fails once", allocations, r"(\d+) failed"),
    Row("an exception at every bytecode",
        [[*PYTEST, "tests/test_interrupts.py", "tests/test_interrupts_around.py"]], PASSED,
        {"FASTUPDATE_TEST_BYTECODES": "all"}),
    Row("damaged checkpoints", [[*PYTHON, "tests/damages.py", "20000"]], r"(\d+ damaged checkpoints: .*)"),
    Row("signals, forks and exits", [[*PYTEST, "tests/test_signals_and_forks.py"]], PASSED),
]  # fmt: skip


def run(row: Row) -> tuple[bool, str]:
    """Whether it held, and how often it was tried."""
    log = LOGS / f"{re.sub(r'[^a-z0-9]+', '-', row.name.lower())}.log"
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, **row.environment}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    held = True
    with log.open("w") as out:
        for command in row.commands() if callable(row.commands) else row.commands:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT, timeout=LIMIT, check=False
            )
            out.write(f"\nexit status {done.returncode}: {' '.join(command)}\n")
            out.flush()
            held = held and done.returncode == 0
    found = re.findall(row.counted, log.read_text(errors="replace"))
    if found and found[0].isdigit():
        return held, f"{sum(map(int, found))}"
    return held, str(found[-1] if found and re.compile(row.counted).groups else len(found))


def line(row: Row) -> tuple[bool, str]:
    begin = time.monotonic()
    held, tried = run(row)
    return held, f"| {row.name} | {tried} | {'yes' if held else 'NO'} | {(time.monotonic() - begin) / 60:.1f} |"


def main() -> int:
    LOGS.mkdir(parents=True, exist_ok=True)
    words, failed = sys.argv[1:], 0
    rows = [row for row in ROWS if not words or any(word in row.name for word in words)]
    print("| what | how often | held | minutes |\n|---|---|---|---|", flush=True)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for held, text in pool.map(line, rows):
            failed += not held
            print(text, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
