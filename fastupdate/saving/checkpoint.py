"""Saving and resuming: an optimizer ↔ a plain dict ↔ a safetensors file.

The dict (arrays and numbers only):

    version, rule, flags          what made it; must agree with the optimizer that it is loaded into
    step, micro_batches           steps taken, and micro-batches accumulated since
    tensors                       name → {"step": its own count, "frozen_until": step count, infinite if frozen by hand}
    groups                        hyperparameters by group; a schedule is {"schedule": its state}, {} if it has none
    arrays                        "state.m.<name>", "slow.<name>", "ema.<name>", "shadow.<name>", "accumulator.<name>",
                                  and in files "param.<name>"

The file is a safetensors file with these arrays; its metadata holds the rest as JSON, after a SHA-256 of the whole file
(computed with zeros in its own place).
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from fastupdate.arrays import accept, device
from fastupdate.arrays.memory import Array
from fastupdate.arrays.numbers import LIMIT, real
from fastupdate.arrays.place import Place
from fastupdate.step.hypers import Group
from fastupdate.step.tensors import zero_arrays

if TYPE_CHECKING:
    from fastupdate.optimizer import Optimizer
    from fastupdate.step.tensors import Item

VERSION = 1
DTYPES = {"float16": "F16", "float32": "F32", "float64": "F64", "uint16": "U16"}
MARK = b'{"__metadata__":{"fastupdate":"'  # the header of our files begins with it; the checksum follows
BLANK = b"0" * 64
LONGEST_HEADER = 100_000_000  # the limit of the safetensors library
CHUNK = 1 << 18  # bytes read at a time


class CheckpointError(ValueError):
    """A file is damaged, or no checkpoint of fastupdate."""


# -- optimizer → dict -------------------------------------------------------------------------------------------------


def snapshot(opt: Optimizer, *, params: bool) -> dict[str, Any]:
    """The state of an optimizer, its arrays being the live ones."""
    opt.stepper.plan.keep_times()
    step, micro_batches = opt.stepper.clock[:2].tolist()
    accumulators = {item.name: item.acc for item in opt.stepper.items if micro_batches and not item.frozen}
    return {
        "version": VERSION,
        "rule": opt.rule.name,
        "flags": dict(opt.stepper.flags),
        "step": step,
        "micro_batches": micro_batches,
        "tensors": {item.name: {"step": item.t, "frozen_until": item.frozen_until} for item in opt.stepper.items},
        "groups": [{key: _plain(value) for key, value in group.items()} for group in opt.groups],
        "arrays": _arrays(opt.stepper.items, accumulators, params=params),
    }


def _arrays(items: list[Item], accumulators: Mapping[str, Array | None], *, params: bool) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for item in items:
        kinds: dict[str, Array | None] = {f"state.{name}": array for name, array in item.states.items()}
        kinds |= {"slow": item.slow, "ema": item.ema, "shadow": item.shadow, "accumulator": accumulators.get(item.name)}
        kinds |= {"param": item.array if params else None}
        found |= {f"{kind}.{item.name}": array for kind, array in kinds.items() if array is not None}
    return found


def _plain(value: Any) -> Any:
    if not callable(value):
        return value
    return {"schedule": value.state_dict() if _has_state(value) else {}}


def _has_state(schedule: Any) -> bool:
    return hasattr(schedule, "state_dict") and hasattr(schedule, "load_state_dict")


# -- dict → optimizer -------------------------------------------------------------------------------------------------


def restorer(opt: Optimizer, state: Mapping[str, Any]) -> Callable[[], None]:
    """Checks a state against an optimizer; returns what copies it in, which may be repeated."""
    rule, items = opt.rule.name, opt.stepper.items
    place = Place(rule, "state_dict")
    fixed = {"version": VERSION, "rule": rule, "flags": opt.stepper.flags}
    _check_keys(place, state, dict.fromkeys([*fixed, "step", "micro_batches", "tensors", "groups", "arrays"]))
    for key, expected in fixed.items():
        if state[key] != expected:
            _at(place, key).fail(ValueError, repr(expected), repr(state[key]))
    clock = [_count(_at(place, key), state[key]) for key in ("step", "micro_batches")]
    times = _times(_at(place, "tensors"), state["tensors"], items)
    groups, schedules = _hyperparameters(_at(place, "groups"), state["groups"], opt.groups)
    moving = [item for item in items if clock[1] and clock[0] >= times[item.name][1]]
    accumulators = {item.name: acc for item, acc in zip(moving, zero_arrays(moving), strict=True)}
    copies = _copies(_at(place, "arrays"), state["arrays"], items, accumulators)

    def act() -> None:
        for item in items:
            item.t, item.frozen_until = times[item.name]
            item.acc = accumulators.get(item.name)
        for group, values in zip(opt.groups, groups, strict=True):
            group.restore(values)
        for schedule, own in schedules:
            schedule.load_state_dict(own)
        for target, source in copies:
            target[...] = source
        opt.stepper.clock[:2] = clock
        opt.stepper.micro_batches.weigh_alike()
        opt.stepper.replan()

    return act


def _at(place: Place, key: str | int) -> Place:
    return Place(place.rule, f"{place.argument}[{key!r}]")


def _check_keys(place: Place, received: Any, expected: Mapping[str, Any]) -> None:
    if not isinstance(received, Mapping):
        place.fail(TypeError, "a mapping", type(received).__name__)
    for key in expected:
        if key not in received:
            _at(place, key).fail(ValueError, "an entry", "none")
    for key in received:
        if key not in expected:
            _at(place, key).fail(ValueError, "no such entry", "one")


def _count(place: Place, value: Any) -> int:
    try:
        number = -1 if isinstance(value, bool) else index(value)
    except TypeError:
        number = -1
    if not 0 <= number < 2**62:
        place.fail(ValueError, "an integer in [0, 2⁶²)", repr(value))
    return number


def _times(place: Place, received: Any, items: list[Item]) -> dict[str, tuple[int, float]]:
    """Each tensor's own step count, and the step count from which it moves."""
    _check_keys(place, received, {item.name: item for item in items})
    times = {}
    for name, entry in received.items():
        own = _at(place, name)
        _check_keys(own, entry, {"step": int, "frozen_until": float})
        until = real(_at(own, "frozen_until"), entry["frozen_until"], LIMIT)
        times[name] = _count(_at(own, "step"), entry["step"]), until
    return times


Stateful = tuple[Any, Mapping[str, Any]]


def _hyperparameters(
    place: Place, received: Any, groups: Sequence[Group]
) -> tuple[list[dict[str, float]], list[Stateful]]:
    """The numbers of each group, and the schedules that have a state of their own with it."""
    if not isinstance(received, (list, tuple)) or len(received) != len(groups):
        place.fail(ValueError, f"a list of {len(groups)} groups", _length(received))
    numbers: list[dict[str, float]] = [{} for _ in groups]
    schedules: list[Stateful] = []
    for k, (group, saved) in enumerate(zip(groups, received, strict=True)):
        own = _at(place, k)
        _check_keys(own, saved, group)
        if saved["params"] != group["params"]:
            _at(own, "params").fail(ValueError, repr(group["params"]), repr(saved["params"]))
        for key in group.intervals():
            current, value = group[key], saved[key]
            if callable(current):
                schedules += _schedule(_at(own, key), current, value)
            elif isinstance(value, Mapping):
                _at(own, key).fail(ValueError, "a number, as in this optimizer", "a schedule")
            else:
                numbers[k][key] = group.check(key, value)
    return numbers, schedules


def _length(received: Any) -> str:
    return f"{len(received)} of them" if isinstance(received, (list, tuple)) else type(received).__name__


def _schedule(place: Place, current: Any, saved: Any) -> list[Stateful]:
    if not isinstance(saved, Mapping) or not isinstance(saved.get("schedule"), Mapping):
        place.fail(ValueError, "a schedule, as in this optimizer", repr(saved))
    state = saved["schedule"]
    if not _has_state(current):
        _check_keys(_at(place, "schedule"), state, {})
        return []
    copy.deepcopy(current).load_state_dict(state)  # raises if the state is wrong
    return [(current, state)]


def _copies(
    place: Place, received: Any, items: list[Item], accumulators: Mapping[str, Array]
) -> list[tuple[Array, Array]]:
    """Where to copy which array, after every check."""
    params = isinstance(received, Mapping) and any(str(key).startswith("param.") for key in received)
    targets = _arrays(items, accumulators, params=params)
    _check_keys(place, received, targets)
    copies = []
    for key, target in targets.items():
        copies.append((target, _like(received[key], target, _at(place, key))))
        if not target.flags.writeable:
            Place(place.rule, key).fail(ValueError, "a writable array", "a read-only one")
    return copies


def _like(x: Any, target: Array, place: Place) -> Array:
    array = accept.as_array(x, place)
    if array.dtype != target.dtype:
        place.fail(TypeError, target.dtype.name, array.dtype.name if array.dtype.isnative else str(array.dtype))
    if array.shape != target.shape:
        place.fail(ValueError, f"shape {target.shape}", f"shape {array.shape}")
    return array


# -- dict → file ------------------------------------------------------------------------------------------------------


def write(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Writes a state to a file: the old file or the new one is there whole at any moment, even if the machine stops."""
    _safetensors()  # a file that could not be read back here is not written
    arrays = dict(sorted(state["arrays"].items(), key=lambda pair: (-pair[1].itemsize, pair[0])))  # aligned
    header = _header({key: value for key, value in state.items() if key != "arrays"}, arrays)
    with _replacing(Path(os.path.realpath(path))) as file:
        digest = hashlib.sha256()
        parts: Iterable[bytes | memoryview] = chain((_size(header), header), map(_bytes, arrays.values()))
        for part in parts:
            digest.update(part)
            file.write(part)
        file.seek(8 + len(MARK))
        file.write(digest.hexdigest().encode())


def _size(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little")


def _header(rest: Mapping[str, Any], arrays: Mapping[str, Array]) -> bytes:
    ends = np.cumsum([array.nbytes for array in arrays.values()], dtype=np.int64).tolist()
    entries: dict[str, Any] = {"__metadata__": {"fastupdate": f"{BLANK.decode()} {json.dumps(rest)}"}}
    for (key, array), end in zip(arrays.items(), ends, strict=True):
        offsets = [end - array.nbytes, end]
        entries[key] = {"dtype": DTYPES[array.dtype.name], "shape": array.shape, "data_offsets": offsets}
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    if len(text) > LONGEST_HEADER:
        raise ValueError(f"[checkpoint] header: expected at most {LONGEST_HEADER} bytes, received {len(text)}")
    return text + b" " * (-len(text) % 8)


def _bytes(array: Array) -> memoryview:
    little = np.ascontiguousarray(device.on_host(array), array.dtype.newbyteorder("<"))
    return little.reshape(-1).view(np.uint8).data


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file under another name in the same directory, which takes the place of `path` once it is on the disk."""
    temporary = path.with_name(f".fastupdate-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
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


# -- file → dict ------------------------------------------------------------------------------------------------------


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
            text = tensors.metadata()["fastupdate"][len(BLANK) :]
        odd = next((key for key, array in arrays.items() if array.dtype.name not in DTYPES), None)
        if odd is not None:  # with ml_dtypes loaded, NumPy has more types than we write
            raise ValueError(f"{arrays[odd].dtype.name} at {odd}")
        return {**json.loads(text), "arrays": arrays}
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"[checkpoint] {os.fspath(path)}: expected a checkpoint, received {error}") from error


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
