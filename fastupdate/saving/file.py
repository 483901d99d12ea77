"""A state, as saving.state describes it, ↔ bytes on the disk.

The file is a safetensors file. Its metadata is a SHA-256 of the whole file (computed with zeros in its own place); its
array "fastupdate" is JSON in UTF-8: the state without its arrays, and where they are (`index`). A short list of arrays
has an entry for each, under its key. A long one is packed, since entries cost a hundred bytes each and the safetensors
library reads no header of more than 100 MB: all arrays of one kind and dtype follow each other in one entry.

A version-1 file has an entry for each array, and the state as JSON after the checksum.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fastupdate.arrays import device
from fastupdate.arrays.memory import Array
from fastupdate.saving.state import split

DTYPES = {
    np.dtype(ours): theirs for ours, theirs in {"f2": "F16", "f4": "F32", "f8": "F64", "u2": "U16", "u1": "U8"}.items()
}
MARK = b'{"__metadata__":{"fastupdate":"'  # the header of our files begins with it; the checksum follows
BLANK = b"0" * 64
MALFORMED = (AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError, ValueError)
CHUNK = 1 << 18  # bytes read at a time
TOGETHER = 4096  # arrays brought together in one write; more of them than this are packed
REST = "fastupdate"  # the entry that holds the state without its arrays


class CheckpointError(ValueError):
    """A file is damaged, or no checkpoint of fastupdate."""


# -- writing ----------------------------------------------------------------------------------------------------------


def write(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Writes a state to a file: the old file or the new one is there whole at any moment, even if the machine stops."""
    _safetensors()  # a file that could not be read back here is not written
    entries = _entries(state["arrays"])
    rest = {key: value for key, value in state.items() if key != "arrays"} | {"index": _index(entries)}
    text = np.frombuffer(json.dumps(rest, ensure_ascii=False, separators=(",", ":")).encode(), np.uint8)
    entries[REST] = {REST: text}
    header = _header(entries)
    with _replacing(Path(os.path.realpath(path))) as file:
        digest = hashlib.sha256()
        parts: Iterable[bytes | memoryview] = chain((_size(header), header), *map(_bytes, entries.values()))
        for part in parts:
            digest.update(part)
            file.write(part)
        file.seek(8 + len(MARK))
        file.write(digest.hexdigest().encode())


Entries = dict[str, dict[str, Array]]  # what each entry of the file holds, by the keys of the state


def _entries(arrays: Mapping[str, Array]) -> Entries:
    """Sorted by the size of elements, so that all are aligned."""
    found: Entries = {}
    for key, array in arrays.items():
        entry = key if len(arrays) <= TOGETHER else f"{split(key)[0]} {DTYPES[array.dtype]}"
        found.setdefault(entry, {})[key] = array
    return dict(sorted(found.items(), key=lambda pair: (-next(iter(pair[1].values())).itemsize, pair[0])))


def _index(entries: Entries) -> dict[str, Any]:
    """Names and shapes of packed arrays. Kinds have the same ones as a rule, and then share a list."""
    lists: dict[tuple[Any, ...], int] = {}
    packed = {}
    for entry, arrays in entries.items():
        if entry not in arrays:
            kind = split(next(iter(arrays)))[0]
            content = tuple((key[len(kind) + 1 :], array.shape) for key, array in arrays.items())
            packed[entry] = {"kind": kind, "list": lists.setdefault(content, len(lists))}
    names, shapes = ([[pair[k] for pair in content] for content in lists] for k in (0, 1))
    return {"packed": packed, "names": names, "shapes": shapes}


def _size(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little")


def _header(entries: Entries) -> bytes:
    described: dict[str, Any] = {"__metadata__": {"fastupdate": BLANK.decode()}}
    end = 0
    for entry, arrays in entries.items():
        first = next(iter(arrays.values()))
        begin, size = end, sum(array.size for array in arrays.values())
        end += size * first.itemsize
        shape = first.shape if entry in arrays else (size,)
        described[entry] = {"dtype": DTYPES[first.dtype], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def _bytes(arrays: Mapping[str, Array]) -> Iterator[memoryview]:
    values = iter(arrays.values())
    while some := [device.on_host(array) for array in islice(values, TOGETHER)]:
        flat = some[0] if len(some) == 1 else np.concatenate([array.reshape(-1) for array in some])
        little = np.ascontiguousarray(flat, flat.dtype.newbyteorder("<"))
        yield little.reshape(-1).view(np.uint8).data


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file under another name in the same directory, which takes the place of `path` once it is on the disk.

    The permissions are those of the file that it replaces. It is locked while it is being written, so that what a
    process that died left behind can be told from what another one is writing now.
    """
    mode = _mode_of(path)
    temporary = path.with_name(f".fastupdate-{secrets.token_hex(8)}.tmp")
    try:
        with _new(temporary, path, 0o666 if mode is None else 0o600) as file:
            with suppress(OSError):  # a file system without locks: nobody tidies up there
                fcntl.flock(file, fcntl.LOCK_EX)
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            _tidy(path.parent, os.fstat(file.fileno()).st_mtime - 60)
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _new(temporary: Path, path: Path, mode: int) -> BinaryIO:
    """A file for what is to become another one, which an error names."""
    try:
        return open(temporary, "xb", opener=partial(os.open, mode=mode))
    except OSError as error:
        error.filename = os.fspath(path)
        raise


def _tidy(directory: Path, before: float) -> None:
    """Removes what processes that died left behind: files that nobody has locked, last written before a time."""
    for path in directory.glob(".fastupdate-*.tmp"):
        with suppress(OSError), open(path, "rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_mtime < before:
                path.unlink()


def _mode_of(path: Path) -> int | None:
    """The permissions of the file that is to be replaced, None if there is none. A device, a pipe … is no such file."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "a device, pipe or socket"
        raise ValueError(f"[checkpoint] {path}: expected a regular file or a new name, received {kind}")
    return stat.S_IMODE(mode)


# -- reading ----------------------------------------------------------------------------------------------------------


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `opt.save(path)` wrote, for `opt.load_state_dict`. Needs fastupdate[checkpoint].

    Raises CheckpointError if a byte is missing or other than it was. There is no pickle, and memory is bounded by the
    length of the file; the checksum is against accidents, not against forgers.
    """
    safetensors = _safetensors()
    try:
        with open(path, "rb") as file:
            _check_digest(path, file)
        with safetensors.safe_open(path, framework="numpy") as tensors:
            arrays = {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118 (it is no mapping)
            metadata = tensors.metadata()["fastupdate"]
        odd = next((key for key, array in arrays.items() if array.dtype not in DTYPES), None)
        if odd is not None:  # with ml_dtypes loaded, NumPy has more types than we write
            raise ValueError(f"{arrays[odd].dtype.name} at {odd}")
        if metadata[len(BLANK) :]:  # version 1
            return {**json.loads(metadata[len(BLANK) :]), "arrays": arrays}
        rest = json.loads(arrays.pop(REST).tobytes())
        index = rest.pop("index")
        return {**rest, "arrays": dict(_unpacked(arrays, **index))}
    except (safetensors.SafetensorError, *MALFORMED) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"[checkpoint] {os.fspath(path)}: expected a checkpoint, received {error}") from error


def _unpacked(
    arrays: Mapping[str, Array], packed: Any, names: Sequence[Any], shapes: Sequence[Any]
) -> Iterator[tuple[str, Array]]:
    """The arrays by the keys of the state, those of long lists as views into their entries."""
    for entry, array in arrays.items():
        if entry not in packed:
            yield entry, array
            continue
        kind, k = packed[entry]["kind"], packed[entry]["list"]
        sizes = [math.prod(shape) for shape in shapes[k]]
        if array.ndim != 1 or sum(sizes) != array.size or any(size < 0 for size in sizes):
            raise ValueError(f"{array.size} elements in {entry}, expected {sum(sizes)}")
        end = 0
        for name, shape, size in zip(names[k], shapes[k], sizes, strict=True):
            begin, end = end, end + size
            yield f"{kind}.{name}", array[begin:end].reshape(shape)


def _check_digest(path: str | os.PathLike[str], file: BinaryIO) -> None:
    size = os.fstat(file.fileno()).st_size
    front = file.read(8 + len(MARK))
    stored = file.read(len(BLANK))
    if not front.endswith(MARK) or len(stored) < len(BLANK):
        raise CheckpointError(
            f"[checkpoint] {os.fspath(path)}: expected a checkpoint, received {size} bytes of another kind"
        )
    digest = hashlib.sha256(front + BLANK)
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    if digest.hexdigest().encode() != stored:
        expected = f"a checksum of {digest.hexdigest()} for its {size} bytes"
        raise CheckpointError(f"[checkpoint] {os.fspath(path)}: damaged: expected {expected}, received {stored!r}")


def _safetensors() -> Any:
    try:
        import safetensors
    except ImportError as error:
        message = "[checkpoint] files need safetensors: pip install fastupdate[checkpoint]"
        raise ImportError(message) from error
    return safetensors
