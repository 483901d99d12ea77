"""A device for machines without one: the shim of tests/cuda_shim in the place of fastupdate._cuda, and arrays on it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

HERE = Path(__file__).parent
SHIM = HERE / "cuda_shim"
STREAM = 1  # the legacy default stream


def build(folder: Path, csrc: Path = HERE.parent / "csrc") -> Path:
    """Compiles the kernels for the host; returns the module's file. What has not changed is not compiled again."""
    import pybind11

    configure = [
        "cmake", "-S", SHIM, "-B", folder, "-G", "Ninja", f"-Dcsrc={csrc}", "-DCMAKE_BUILD_TYPE=None",
        f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
    ]  # fmt: skip
    for command in (configure, ["cmake", "--build", folder]):
        result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
    return next(folder.glob("_cuda*.so"))


def load(file: Path, name: str) -> ModuleType:
    """The extension module of this name in a file that may hold several."""
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def shim() -> ModuleType:
    """The controls of the stand-in, which is installed as fastupdate._cuda."""
    import fastupdate

    file = build(HERE.parent / "build" / "cuda_shim")
    fastupdate._cuda = sys.modules["fastupdate._cuda"] = load(file, "fastupdate._cuda")
    return load(file, "fastupdate._cuda_shim")


class FakeArray:
    """A strided array in the stand-in's memory, which the host cannot touch."""

    def __init__(self, values: Any, offset: int = 0, stream: int | None = STREAM) -> None:
        values = np.asarray(values)
        begin, end = np.lib.array_utils.byte_bounds(values)
        cuda = sys.modules["fastupdate._cuda"]
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
        from fastupdate import device

        device.view(self)[...] = values

    def get(self) -> np.ndarray:
        from fastupdate import device

        return np.array(device.view(self).fetch())
