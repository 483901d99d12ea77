"""Folders of IDX files: they are read and learned, and a malformed one is refused in one line."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from refusals import check_refusal

from fastupdate.cli import main

pytest.importorskip("sklearn", reason="needs the extra 'demo'")
pytest.importorskip("matplotlib", reason="needs the extra 'demo'")
pytest.importorskip("rich", reason="needs the extra 'demo'")

from fastupdate.demo import DemoError, data

pytestmark = pytest.mark.usefixtures("surroundings")


def write_idx(path: Path, array: np.ndarray) -> None:
    content = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_folder(folder: Path, suffix: str = "") -> None:
    """Thirty training and ten test images of 3 x 4 pixels, in three classes that a network can tell apart."""
    for part, count in (("train", 30), ("t10k", 10)):
        labels = np.arange(count) % 3
        images = np.zeros((count, 3, 4))
        images[np.arange(count), labels] = 255
        write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte{suffix}", labels)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_folder_is_read(suffix: str, tmp_path: Path) -> None:
    write_folder(tmp_path, suffix)
    images = data.load(tmp_path)
    assert images.train_images.shape == (30, 12)
    assert images.test_images.shape == (10, 12)
    assert images.train_images.dtype == np.float32
    assert images.train_images[1].tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 4
    assert images.test_labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    assert images.classes == 3


def test_idx_folder_is_learned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path)
    picture = tmp_path / "curves.png"
    assert main(["train", "--data", str(tmp_path), "--batch-size", "8", "--epochs", "5", "--out", str(picture)]) == 0
    assert "epoch 5/5" in capsys.readouterr().out
    assert picture.exists()


IMAGES, LABELS = "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (IMAGES, lambda content: content[:-1], "declares 30 x 3 x 4 bytes of data and holds 359"),
        (IMAGES, lambda content: content + b"\0", "declares 30 x 3 x 4 bytes of data and holds 361"),
        (IMAGES, lambda content: content[:10], "is not an IDX file of bytes in 3 dimension(s)"),
        (IMAGES, lambda content: b"", "is not an IDX file of bytes in 3 dimension(s)"),
        (IMAGES, lambda content: b"\x00\x00\x0d\x03" + content[4:], "is not an IDX file of bytes in 3 dimension(s)"),
        (
            IMAGES,
            lambda content: content[:4] + b"\xff" * 12 + content[16:],
            "declares 4294967295 x 4294967295 x 4294967295 bytes of data and holds 360",
        ),
        (IMAGES, lambda content: content[:4] + struct.pack(">III", 0, 3, 4), "train has no images"),
        (IMAGES, lambda content: content[:4] + struct.pack(">III", 30, 2, 6) + content[16:], None),
        (IMAGES, lambda content: content[:4] + struct.pack(">III", 20, 3, 6) + content[16:], "20 images and 30 labels"),
        (IMAGES, lambda content: content[:4] + struct.pack(">III", 30, 3, 2) + content[16:196], "have 6 pixels, test"),
        (LABELS, lambda content: None, "has neither t10k-labels-idx1-ubyte nor t10k-labels-idx1-ubyte.gz"),
        (LABELS, lambda content: content[:7] + b"\x09" + content[8:-1], "t10k has 10 images and 9 labels"),
        (
            LABELS,
            lambda content: content[:15] + b"\xff" + content[16:],
            f"/{LABELS}: image 7 has the label 255, and those to train with end at 2",
        ),
        (
            TRAIN_LABELS,
            lambda content: content[:-1] + b"\xff",
            f"/{TRAIN_LABELS}: image 29 has the label 255, but only 4 ",
        ),
        (TRAIN_LABELS, lambda content: content[:-1] + b"\x05", None),  # labels between them may be missing
    ],
)
def test_malformed_idx_gets_one_line(
    name: str,
    change: Callable[[bytes], bytes | None],
    message: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_folder(tmp_path)
    path = tmp_path / name
    content = change(path.read_bytes())
    path.unlink() if content is None else path.write_bytes(content)
    if message is None:
        assert data.load(tmp_path).train_images.shape == (30, 12)
    else:
        check_refusal(["--data", str(tmp_path)], message, capsys)


@pytest.mark.parametrize("damage", [lambda z: z[:-9], lambda z: z[:20] + b"\xff\xff" + z[22:], lambda z: b"no gzip"])
def test_damaged_gzip_gets_one_line(
    damage: Callable[[bytes], bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(tmp_path, ".gz")
    path = tmp_path / f"{IMAGES}.gz"
    path.write_bytes(damage(path.read_bytes()))
    check_refusal(["--data", str(tmp_path)], f"{path} is damaged: ", capsys)


def test_unreadable_idx_gets_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    write_folder(tmp_path)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DemoError, match=r"--data: cannot read .*: Permission denied"):
        data.load(tmp_path)
