"""Reads what nvcc left behind: registers and spills in its logs, contraction in PTX, 16-byte accesses in machine code.

    python3 scripts/cuda_code.py FOLDER    (scripts/cuda_compile_check.sh calls it)

The machine code is read by nvdisasm, of the toolkit or of `pip install nvidia-cuda-nvdisasm`. Where there is none, that
is said; where FASTUPDATE_REQUIRE_PEERS is set, it is an error.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


def nvdisasm() -> str | None:
    """On PATH, beside nvcc, or in the Python environment of this process or of the project."""
    environments = [*sys.path, *Path().glob(".venv/lib/python*/site-packages")]
    beside = Path(os.path.realpath(shutil.which("nvcc") or ".")).parent
    places = [beside, *(Path(folder) / "nvidia/cu13/bin" for folder in environments)]
    return next(filter(None, (shutil.which("nvdisasm", path=p) for p in (None, *map(str, places)))), None)


def kernels(text: str, heading: str) -> Iterator[tuple[str, str]]:
    """The name of each kernel and what stands under it; headings hold one group, the name."""
    _, *parts = re.split(heading, text)
    return zip(parts[::2], parts[1::2], strict=True)


def read_log(text: str) -> Iterator[str]:
    """Prints the registers of each kernel; yields what spills."""
    for name, about in kernels(text, r"Compiling entry function '(\w+)'"):
        used = re.search(r"Used (\d+) registers", about)
        print(f"{used[1] if used else '?':>4} registers  {name}")
    for name, about in kernels(text, r"Function properties for (\w+)"):
        if "0 bytes spill stores, 0 bytes spill loads" not in about.split("Function properties")[0]:
            yield f"{name} spills: {about.strip().splitlines()[0].strip()}"


def read_ptx(text: str) -> Iterator[str]:
    for name, code in kernels(text, r"\.visible \.entry (\w+)"):
        if re.search(r"\bfma\.", code):
            yield f"{name}: fused multiply-add"


def only_read(name: str, folder: Path) -> int:
    """How many states, at most, the update of a kernel's rule does not move: they are read, and not written."""
    rule = re.search(r"INS0_(\d+)(\w+)", name)
    header = folder / "rules" / f"{rule[2][: int(rule[1])]}.h" if rule else folder
    if not header.is_file():
        return 0
    states, changes = (
        re.search(pattern, header.read_text()) for pattern in (r"FASTUPDATE_STATES\((.*?)\)", r"changes\[\] = \{(.*)\}")
    )
    assert states
    assert changes
    return len(states[1].split(",")) - changes[1].split(",")[-1].count("<<")


def read_machine_code(text: str, folder: Path) -> Iterator[str]:
    """An update reads weight, gradient and states, and writes all that it moves; with options, as much of each."""
    for name, code in kernels(text, r"\.section\s+\.text\.(\w+)"):
        kind = re.search(r"(plain|full|mixed)_update", name)
        if kind is None:
            continue
        loads, stores = (len(re.findall(rf"\b{op}\.E\.128\b", code)) for op in ("LDG", "STG"))
        one = 3 if kind[1] == "mixed" else 2 if "IdLj" in name else 1  # accesses to four elements: float64 takes two
        least, spare = (2 * one, one) if kind[1] == "plain" else (4 * one, 0)
        if loads < least or not 0 <= loads - spare - stores <= one * only_read(name, folder):
            yield f"{name}: {loads} loads and {stores} stores of 16 bytes"


def main(work: Path) -> int:
    faults = [fault for log in sorted(work.glob("*.log")) for fault in read_log(log.read_text())]
    faults += [fault for ptx in sorted(work.glob("*.keep/*.ptx")) for fault in read_ptx(ptx.read_text())]
    tool = nvdisasm()
    for cubin in sorted(work.glob("*.keep/*.cubin")) if tool else ():
        code = subprocess.run([str(tool), "-c", cubin], capture_output=True, text=True, check=True).stdout
        faults += read_machine_code(code, work)
    if tool is None:
        print("nvdisasm is not there (pip install nvidia-cuda-nvdisasm): 16-byte accesses were NOT checked")
        faults += ["no nvdisasm"] * bool(os.environ.get("FASTUPDATE_REQUIRE_PEERS"))
    print(*faults or ["no spills, no contraction" + ", 16-byte accesses" * bool(tool)], sep="\n")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
