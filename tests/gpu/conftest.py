"""What the tests that need a CUDA device share. Elsewhere they are skipped, with the reason."""

from __future__ import annotations

import numpy as np
import pytest

from fastupdate.engines import choose


@pytest.fixture(autouse=True)
def _device() -> None:
    problem = choose.cuda_problem()
    if problem:
        pytest.skip(f"needs a CUDA device: {problem}")


@pytest.fixture(params=["cupy", "torch"])
def framework(request: pytest.FixtureRequest) -> Framework:
    """Each framework that has device arrays here."""
    module = pytest.importorskip(request.param, reason=f"needs {request.param} with CUDA")
    if request.param == "torch" and not module.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    return CuPy(module) if request.param == "cupy" else Torch(module)


class Framework:
    """What the tests need of a framework, under one name."""

    def __init__(self, module) -> None:
        self.module = module

    def on(self, stream):
        """Makes a stream current."""
        return stream


class CuPy(Framework):
    def array(self, values: np.ndarray):
        """A device array with the strides of `values`."""
        copy = self.module.empty(values.shape, values.dtype, order="F" if values.flags.f_contiguous else "C")
        copy[...] = self.module.asarray(values)
        return copy

    def numpy(self, array) -> np.ndarray:
        return self.module.asnumpy(array)

    def empty(self, n: int):
        return self.module.zeros(n, "float32")

    def stream(self):
        return self.module.cuda.Stream(non_blocking=True)

    def fill(self, array, value) -> None:
        array.fill(value)

    def done(self, stream) -> bool:
        return stream.done

    def busy(self) -> None:
        """Some milliseconds of work on the current stream."""
        x = self.module.zeros(1 << 26, "float32")
        for _ in range(50):
            x += 1

    def capture(self, work):
        """A launcher of what `work` queues."""
        stream = self.stream()
        with stream:
            stream.begin_capture()
            work()
            graph = stream.end_capture()
        return stream, lambda: graph.launch(stream)

    def synchronize(self) -> None:
        self.module.cuda.Device().synchronize()


class Torch(Framework):
    def array(self, values: np.ndarray):
        copy = self.module.empty_strided(
            values.shape, [s // values.itemsize for s in values.strides] if min(values.strides, default=0) >= 0 else
            self.module.zeros(values.shape).stride(), dtype=getattr(self.module, values.dtype.name), device="cuda",
        )  # fmt: skip
        return copy.copy_(self.module.from_numpy(np.ascontiguousarray(values)))

    def numpy(self, array) -> np.ndarray:
        if array.dtype == self.module.bfloat16:
            return array.cpu().view(self.module.int16).numpy().view(np.uint16)
        return array.cpu().numpy()

    def empty(self, n: int):
        return self.module.zeros(n, device="cuda")

    def stream(self):
        return self.module.cuda.Stream()

    def on(self, stream):
        return self.module.cuda.stream(stream)

    def fill(self, array, value) -> None:
        array.fill_(value)

    def done(self, stream) -> bool:
        return stream.query()

    def busy(self) -> None:
        x = self.module.zeros(1 << 26, device="cuda")
        for _ in range(20):
            x += 1

    def capture(self, work):
        graph = self.module.cuda.CUDAGraph()
        with self.module.cuda.graph(graph):
            work()
        return self.stream(), graph.replay

    def synchronize(self) -> None:
        self.module.cuda.synchronize()
