"""A device for machines without one: the shim of tests/cuda_shim in the place of fastupdate._cuda, and arrays on it."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).parent
SHIM = HERE / "cuda_shim"
STREAM = 1  # the legacy default stream
CSRC = HERE.parent / "csrc"
BUILD = HERE.parent / "build" / "cuda_shim"
NAMES = ("_cuda", "cuda")  # what is replaced, and what has taken hold of it
ON_A_DEVICE = os.environ.get("FASTUPDATE_TEST_DEVICE") == "cuda"  # the tests of the stand-in run on a real one


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Python with the tests' modules on its path, whatever else is there."""
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)


@cache
def build(folder: Path) -> Path:
    """Compiles the kernels for the host, once in a process; returns the module's file. What has not changed is kept."""
    # Those that `.[test]` installs are beside Python, where PATH need not lead.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    missing = [tool for tool in ("cmake", "ninja", "c++") if shutil.which(tool, path=path) is None]
    if importlib.util.find_spec("pybind11") is None:
        missing.append("pybind11")
    if missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"the kernels' stand-in needs {', '.join(missing)}")
    import pybind11

    configure = [
        "cmake", "-S", SHIM, "-B", folder, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=None",
        f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
    ]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several test processes
        for command in (configure, ["cmake", "--build", folder]):
            result = subprocess.run(
                list(map(str, command)), env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
            )
            assert result.returncode == 0, result.stdout + result.stderr
    return next(folder.glob("_cuda_stand_in*.so"))


@cache
def load(file: Path, name: str) -> ModuleType:
    """The extension module of this name in a file that may hold several."""
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Uncontrolled:
    """In the place of the stand-in's controls: a real device orders its threads and counts its launches for itself."""

    def __getattr__(self, name: str) -> Any:
        if name in ("set_schedule", "set_resident"):
            return lambda _value: None
        pytest.skip(f"a real device has no {name}: only the stand-in tells what is queued and launched")


@contextmanager
def installed(file: Path | None = None) -> Iterator[Any]:
    """The stand-in, built if need be, is fastupdate._cuda for a while. Yields its controls."""
    if ON_A_DEVICE and file is None:
        yield Uncontrolled()
        return
    import fastupdate
    from fastupdate.engines import choose

    modules = {f"fastupdate.{name}": sys.modules.pop(f"fastupdate.{name}", None) for name in NAMES}
    attributes = {name: fastupdate.__dict__.pop(name, None) for name in NAMES}
    choose.cuda_problem.cache_clear()
    file = file or build(BUILD)
    fastupdate._cuda = sys.modules["fastupdate._cuda"] = load(file, "_cuda_stand_in")
    try:
        yield load(file, "_cuda_controls")
    finally:
        for name in NAMES:
            sys.modules.pop(f"fastupdate.{name}", None)
            fastupdate.__dict__.pop(name, None)
        sys.modules.update({name: module for name, module in modules.items() if module})
        for name, attribute in attributes.items():
            if attribute is not None:
                setattr(fastupdate, name, attribute)
        choose.cuda_problem.cache_clear()


class FakeArray:
    """A strided array in the stand-in's memory, which the host cannot touch."""

    def __init__(self, values: Any, offset: int = 0, stream: int | None = STREAM) -> None:
        values = np.asarray(values)
        begin, end = np.lib.array_utils.byte_bounds(values)
        from fastupdate import _cuda as cuda  # whichever is installed now

        self.memory = cuda.Memory(end - begin + offset, 0)
        self.shape, self.dtype, self.strides, self.stream = values.shape, values.dtype, values.strides, stream
        self.address = self.memory.address + offset + values.__array_interface__["data"][0] - begin
        if values.size:
            self.set(values)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape, "typestr": self.dtype.str, "data": (self.address, False), "strides": self.strides,
            "version": 3, "stream": self.stream,
        }  # fmt: skip

    def set(self, values: Any) -> None:
        from fastupdate.arrays import device

        there = device.view(self)
        there[...] = np.asarray(values).view(there.dtype)

    def get(self) -> np.ndarray:
        from fastupdate.arrays import device

        return np.array(device.view(self).fetch())
