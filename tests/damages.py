"""Checkpoints damaged at random: each is refused by name, or loads as what was saved.

python damages.py [HOW_MANY]
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from cases import exactly

import fastupdate as fu


def flipped(data: bytearray, rng: np.random.Generator) -> None:
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)


def cut(data: bytearray, rng: np.random.Generator) -> None:
    del data[rng.integers(len(data)) :]


def zeroed(data: bytearray, rng: np.random.Generator) -> None:
    begin = int(rng.integers(len(data)))
    end = min(begin + int(rng.integers(1, 600)), len(data))
    data[begin:end] = bytes(end - begin)


def longer(data: bytearray, rng: np.random.Generator) -> None:
    begin = int(rng.integers(len(data)))
    data[begin:begin] = rng.bytes(int(rng.integers(1, 50)))


def shuffled(data: bytearray, rng: np.random.Generator) -> None:
    begin = int(rng.integers(len(data)))
    data[begin : begin + 40] = bytes(rng.permutation(np.frombuffer(bytes(data[begin : begin + 40]), np.uint8)))


DAMAGES: list[Callable[[bytearray, np.random.Generator], None]] = [flipped, cut, zeroed, longer, shuffled]


def main(count: int = 2000) -> int:
    rng = np.random.default_rng(0)
    params = {"w": rng.standard_normal((40, 30)).astype(np.float32), "b": rng.standard_normal(7)}
    opt = fu.AdamW(params, ema_decay=0.5, shadow="bfloat16")
    opt.step({name: np.ones_like(a) for name, a in params.items()})
    refused, wrong = 0, []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        opt.save(path)
        good, expected = path.read_bytes(), exactly(fu.load(path))
        for k in range(count):
            data, damage = bytearray(good), DAMAGES[k % len(DAMAGES)]
            damage(data, rng)
            path.write_bytes(data)
            try:
                loaded = exactly(fu.load(path))
            except fu.CheckpointError:
                refused += 1
            except BaseException as error:
                wrong.append(f"{k}, {damage.__name__}: {error!r}")
            else:
                if loaded != expected:
                    wrong.append(f"{k}, {damage.__name__}: loaded as something else")
    print(f"{count} damaged checkpoints: {refused} refused, {count - refused - len(wrong)} whole, {len(wrong)} wrong")
    print("\n".join(wrong[:10]), end="\n" if wrong else "")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
