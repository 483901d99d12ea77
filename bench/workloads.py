"""What is stepped: lists of tensor shapes, and the same parameters and gradients for every contestant."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Shape = tuple[int, ...]

PATTERN = 1 << 20  # elements of the random pattern that fills the tensors


def gpt2() -> list[Shape]:
    """GPT-2 small (Radford et al. 2019): 148 tensors, 124 439 808 elements."""
    width, inner = 768, 3072
    vector, norm = [(width,)], [(width,), (width,)]
    block = [*norm, (width, 3 * width), (3 * width,), (width, width), *vector]
    block += [*norm, (width, inner), (inner,), (inner, width), *vector]
    return [(50257, width), (1024, width), *(block * 12), *norm]


def resnet50() -> list[Shape]:
    """ResNet-50 (He et al. 2016) for 1000 classes: 161 tensors, 25 557 032 elements."""
    return [*_convolution(64, 3, 7), *_bottlenecks(), (1000, 2048), (1000,)]


def _convolution(outputs: int, inputs: int, size: int) -> list[Shape]:
    """A convolution and its batch normalisation."""
    return [(outputs, inputs, size, size), (outputs,), (outputs,)]


def _bottlenecks() -> Iterator[Shape]:
    inputs = 64
    for width, depth in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for k in range(depth):
            yield from _convolution(width, inputs, 1)
            yield from _convolution(width, width, 3)
            yield from _convolution(4 * width, width, 1)
            if k == 0:
                yield from _convolution(4 * width, inputs, 1)
            inputs = 4 * width


@dataclass(frozen=True)
class Workload:
    """Tensors of one step.

    fresh          every step gets gradient arrays that are new objects
    channels_last  torch's images and filters have their channels last in memory
    """

    name: str
    title: str
    shapes: tuple[Shape, ...]
    fresh: bool = False
    channels_last: bool = False

    @property
    def elements(self) -> int:
        return sum(map(math.prod, self.shapes))

    @property
    def working_set(self) -> int:
        """Bytes of parameters, gradients and AdamW's two states."""
        return 16 * self.elements

    def parameters(self) -> list[Array]:
        """Standard normal values; the same on every call, in pages that have been touched."""
        return self._filled(_pattern(0))

    def gradients(self) -> list[Array]:
        """Values of either sign with 0.001 ≤ |g|: no zeros, no denormals now or after any decay."""
        pattern = _pattern(1)
        return self._filled(np.float32(0.01) * pattern + np.copysign(np.float32(0.001), pattern))

    def _filled(self, pattern: Array) -> list[Array]:
        arrays = [np.empty(shape, np.float32) for shape in self.shapes]
        for k, array in enumerate(arrays):
            _fill(array.reshape(-1), np.roll(pattern[:65536], k) if array.size <= 65536 else pattern)
        return arrays


def _pattern(seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal(PATTERN, np.float32)


def _fill(flat: Array, pattern: Array) -> None:
    for begin in range(0, flat.size, pattern.size):
        part = flat[begin : begin + pattern.size]
        part[:] = pattern[: part.size]


WORKLOADS = {
    w.name: w
    for w in (
        Workload("huge", "one tensor of 100 000 000", ((10**8,),)),
        Workload("ten-million", "one tensor of 10 000 000", ((10**7,),)),
        Workload("gpt2", "GPT-2 124M", tuple(gpt2())),
        Workload("resnet50", "ResNet-50", tuple(resnet50())),
        Workload("resnet50-last", "ResNet-50, channels last", tuple(resnet50()), channels_last=True),
        Workload("10kx64", "10 000 tensors of 64", ((64,),) * 10_000),
        Workload(
            "10kx64-fresh", "10 000 tensors of 64, new gradient arrays in each step", ((64,),) * 10_000, fresh=True
        ),
        Workload("10kx256", "10 000 tensors of 256", ((256,),) * 10_000),
        Workload("1kx64", "1000 tensors of 64", ((64,),) * 1000),
        Workload("one64", "one tensor of 64", ((64,),)),
        Workload("161x64", "161 tensors of 64", ((64,),) * 161),
        Workload("161x64-fresh", "161 tensors of 64, new gradient arrays in each step", ((64,),) * 161, fresh=True),
        Workload("465x64", "465 tensors of 64", ((64,),) * 465),
        Workload("matrix", "one matrix of 2500 × 4000", ((2500, 4000),)),
        Workload("powers", "one matrix of 2048 × 4096", ((2048, 4096),)),
        Workload("wide", "one matrix of 500 × 20 000", ((500, 20_000),)),
        Workload("layer", "one matrix of 784 × 512", ((784, 512),)),
        Workload("images", "one tensor of 256 × 512 × 9 × 9", ((256, 512, 9, 9),)),
        Workload("800x12500", "800 tensors of 12 500", ((12_500,),) * 800),
        Workload("800x784", "800 tensors of 784", ((784,),) * 800),
        Workload("tiny", "five small tensors (a smoke test)", ((64, 33), (33,), (5,), (), (40_000,))),
    )
}
