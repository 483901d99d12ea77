"""Real images: scikit-learn's handwritten digits, or a folder in MNIST's IDX format (Fashion-MNIST, MNIST, ...)."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fastupdate.demo import DemoError, require
from fastupdate.demo.network import Floats, Labels

_SPLIT = 1  # a constant, not the run's seed: every seed and every rule is judged on the same images
_TEST_SHARE = 0.2
LABELS = {part: f"{part}-labels-idx1-ubyte" for part in ("train", "t10k")}


@dataclass(frozen=True)
class Dataset:
    """Images, (n, pixels) float32 between 0 and 1; their labels, (n,) int64 from 0 up; and how long to train."""

    name: str
    train_images: Floats
    train_labels: Labels
    test_images: Floats
    test_labels: Labels
    epochs: int
    batch_size: int

    @property
    def classes(self) -> int:
        return int(max(self.train_labels.max(), self.test_labels.max())) + 1


def load(folder: Path | None) -> Dataset:
    """The IDX files of `folder`; without one, scikit-learn's digits."""
    return load_digits() if folder is None else load_idx_folder(folder)


def load_digits() -> Dataset:
    """1797 handwritten digits of 8 x 8 pixels, one in five of each kind kept for the test."""
    images, labels = require("sklearn.datasets", "the handwritten digits").load_digits(return_X_y=True)
    train_images, test_images, train_labels, test_labels = require(
        "sklearn.model_selection", "the handwritten digits"
    ).train_test_split(
        (images / 16.0).astype(np.float32),
        labels.astype(np.int64),
        test_size=_TEST_SHARE,
        random_state=_SPLIT,
        stratify=labels,
    )
    return Dataset("digits", train_images, train_labels, test_images, test_labels, epochs=30, batch_size=16)


def load_idx_folder(folder: Path) -> Dataset:
    """The four files of MNIST and its relatives: `train` and `t10k` images and labels, plain or gzip-compressed."""
    if not folder.is_dir():
        raise DemoError(f"--data: no folder {folder}")
    train_images, train_labels = _load_part(folder, "train")
    test_images, test_labels = _load_part(folder, "t10k")
    if train_images.shape[1] != test_images.shape[1]:
        raise DemoError(
            f"--data: {folder}: training images have {train_images.shape[1]} pixels, "
            f"test images have {test_images.shape[1]}"
        )
    _check_classes(folder, train_labels, test_labels)
    name = folder.resolve().name
    return Dataset(name, train_images, train_labels, test_images, test_labels, epochs=10, batch_size=128)


def _check_classes(folder: Path, train_labels: Labels, test_labels: Labels) -> None:
    """A label that stands alone far above the others, as 255 for "none" does, is no class to make an output for."""
    found = np.unique(train_labels)
    if 2 * len(found) < found[-1] + 1:
        raise DemoError(
            f"--data: {_find(folder, LABELS['train'])}: image {np.argmax(train_labels)} has the label {found[-1]}, but "
            f"only {len(found)} different ones occur: number the classes from 0, and leave out images that have none"
        )
    foreign = np.flatnonzero(test_labels > found[-1])
    if len(foreign):
        raise DemoError(
            f"--data: {_find(folder, LABELS['t10k'])}: image {foreign[0]} has the label {test_labels[foreign[0]]}, and "
            f"those to train with end at {found[-1]}"
        )


def _load_part(folder: Path, part: str) -> tuple[Floats, Labels]:
    """Images as rows, (n, pixels) float32 between 0 and 1, and labels (n,) of one half of the data."""
    images = read_idx(_find(folder, f"{part}-images-idx3-ubyte"), ndim=3)
    labels = read_idx(_find(folder, LABELS[part]), ndim=1)
    if images.size == 0:
        raise DemoError(f"--data: {folder}: {part} has no images")
    if len(images) != len(labels):
        raise DemoError(f"--data: {folder}: {part} has {len(images)} images and {len(labels)} labels")
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255.0), labels.astype(np.int64)


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DemoError(f"--data: {folder} has neither {name} nor {name}.gz")


def read_idx(path: Path, ndim: int) -> npt.NDArray[np.uint8]:
    """The array of bytes in an IDX file, which must have `ndim` dimensions and exactly the size that it declares.

    The format (Y. LeCun, "The MNIST database"): two zero bytes, the element type (8: unsigned byte), the number of
    dimensions, each dimension as a big-endian 32-bit integer, then the elements in C order.
    """
    content = _read_bytes(path)
    header = 4 + 4 * ndim
    if content[:4] != bytes((0, 0, 8, ndim)) or len(content) < header:
        raise DemoError(f"--data: {path} is not an IDX file of bytes in {ndim} dimension(s)")
    shape = struct.unpack(f">{ndim}I", content[4:header])
    if len(content) - header != math.prod(shape):
        size = " x ".join(map(str, shape))
        raise DemoError(f"--data: {path} declares {size} bytes of data and holds {len(content) - header}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _read_bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DemoError(f"--data: {path} is damaged: {error}") from error
    except OSError as error:
        raise DemoError(f"--data: cannot read {path}: {error.strerror}") from error
