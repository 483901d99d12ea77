"""Files are refused where a byte is wrong, or where one with a right checksum says what cannot be."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import content, layout, make  # noqa: F401 (layout is a fixture)
from peers import peer

import fastupdate as fu
from fastupdate.saving import file


@pytest.fixture(autouse=True, scope="module")
def _needs_safetensors() -> None:
    peer("safetensors")


MARK = file.MARK


# -- damage -----------------------------------------------------------------------------------------------------------


def refused(path: Path, data: bytes) -> str | None:
    """The message of the refusal, None if the file was read."""
    path.write_bytes(data)
    try:
        fu.load(path)
    except fu.CheckpointError as error:
        return str(error)
    return None


@pytest.mark.usefixtures("layout")
def test_a_flipped_bit_is_noticed_wherever_it_is(tmp_path: Path) -> None:
    make().save(tmp_path / "run")
    data = (tmp_path / "run").read_bytes()
    assert refused(tmp_path / "copy", data) is None
    for k in range(len(data)):
        flipped = data[:k] + bytes([data[k] ^ 1 << k % 8]) + data[k + 1 :]
        assert str(tmp_path / "copy") in (refused(tmp_path / "copy", flipped) or ""), f"byte {k}"


@pytest.mark.usefixtures("layout")
def test_a_missing_or_added_end_is_noticed_wherever_it_is(tmp_path: Path) -> None:
    make().save(tmp_path / "run")
    data = (tmp_path / "run").read_bytes()
    for k in range(len(data)):
        assert refused(tmp_path / "copy", data[:k]), f"first {k} bytes"
    assert refused(tmp_path / "copy", data + b"\0")
    assert refused(tmp_path / "copy", data + data)


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "expected a checkpoint, received 0 bytes of another kind"),
    "text": (lambda data: b"some notes" * 50, "expected a checkpoint, received 500 bytes of another kind"),
    "zeros": (lambda data: bytes(len(data)), "expected a checkpoint"),
    "half": (lambda data: data[: len(data) // 2], "damaged: expected a checksum of [0-9a-f]{64}"),
    "end of zeros": (lambda data: data[:-50] + bytes(50), "damaged: expected a checksum"),
    "swapped halves": (lambda data: data[len(data) // 2 :] + data[: len(data) // 2], "expected a checkpoint"),
}


@pytest.mark.parametrize(("change", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_named(change: Any, message: str, tmp_path: Path) -> None:
    make().save(tmp_path / "run")
    data = (tmp_path / "run").read_bytes()
    (tmp_path / "run").write_bytes(change(data))
    with pytest.raises(fu.CheckpointError, match=rf"\[checkpoint\] .*/run: {message}"):
        fu.load(tmp_path / "run")


def test_a_plain_safetensors_file_is_no_checkpoint(tmp_path: Path) -> None:
    peer("safetensors.numpy").save_file({"w": np.ones(30)}, tmp_path / "model")
    with pytest.raises(fu.CheckpointError, match="of another kind"):
        fu.load(tmp_path / "model")


def test_a_missing_file_is_just_that(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        fu.load(tmp_path / "run")
    with pytest.raises(FileNotFoundError):
        make().save(tmp_path / "nowhere" / "run")


def test_a_flipped_bit_is_noticed_in_a_file_of_the_first_version(tmp_path: Path) -> None:
    data = (Path(__file__).parent / "data" / "version1.safetensors").read_bytes()
    assert refused(tmp_path / "copy", data) is None
    for k in range(0, len(data), 5):
        flipped = data[:k] + bytes([data[k] ^ 1 << k % 8]) + data[k + 1 :]
        assert str(tmp_path / "copy") in (refused(tmp_path / "copy", flipped) or ""), f"byte {k}"


# -- malice: files with a right checksum ------------------------------------------------------------------------------


def forged(rest: str = "{}", entries: str = "", data: bytes = b"", length: int | None = None) -> bytes:
    """A file with the right checksum for these contents."""
    quoted = json.dumps(f"{'0' * 64} {rest}".rstrip(), ensure_ascii=False)
    header = f'{{"__metadata__":{{"fastupdate":{quoted}}}{entries}}}'.encode()
    header += b" " * (-len(header) % 8)
    blank = (len(header) if length is None else length).to_bytes(8, "little") + header + data
    at = 8 + len(MARK)
    return blank[:at] + hashlib.sha256(blank).hexdigest().encode() + blank[at + 64 :]


def entry(dtype: str = "F32", shape: Any = (2,), begin: int = 0, end: int = 8) -> str:
    return f',"param.w":{{"dtype":"{dtype}","shape":{json.dumps(shape)},"data_offsets":[{begin},{end}]}}'


EIGHT = bytes(8)
MALICE: dict[str, bytes] = {
    "huge header": forged(length=2**63),
    "long header": forged(length=2**40),
    "no header": forged(length=0),
    "more than there is": forged("{}", entry(shape=[2**40], end=2**42), EIGHT),
    "another size than its shape": forged("{}", entry(shape=[2**40]), EIGHT),
    "overflowing shape": forged("{}", entry(shape=[2**62, 2**62]), EIGHT),
    "empty and huge": forged("{}", entry(shape=[0, 2**62, 2**62], end=0)),
    "negative shape": forged("{}", entry(shape=[-2, -1]), EIGHT),
    "backwards": forged("{}", entry(begin=8, end=0), EIGHT),
    "a hole": forged("{}", entry(begin=4, end=12), bytes(12)),
    "unused bytes": forged("{}", entry(), bytes(16)),
    "shared bytes": forged("{}", entry() + entry().replace("param", "state.m"), EIGHT),
    "no such type": forged("{}", entry("object"), EIGHT),
    "a type that NumPy lacks": forged("{}", entry("BF16", (4,)), EIGHT),
    "deep header": forged("{}", ',"x":' + "[" * 100_000 + "]" * 100_000),
    "deep state": forged("[" * 100_000 + "]" * 100_000),
    "no JSON": forged("state"),
    "a list": forged("[1, 2]"),
    "a long number": forged('{"step": ' + "9" * 100_000 + "}"),
    "code": forged("cos\nsystem\n(S'true'\ntR."),
}


def packed(names: Any = ("w",), shapes: Any = ((2,),), entry: Any = None, rest: str | None = None) -> bytes:
    """A file of the second version with the right checksum: two float32 in one entry, and what it says they are."""
    index = {"packed": {"param F32": {"kind": "param", "list": 0} if entry is None else entry}}
    text = json.dumps({"index": {**index, "names": [names], "shapes": [shapes]}}) if rest is None else rest
    values = EIGHT + text.encode()
    return forged(
        "",
        f',"param F32":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}},"fastupdate":{{"dtype":"U8",'
        f'"shape":[{len(values) - 8}],"data_offsets":[8,{len(values)}]}}',
        values,
    )


MALICE |= {
    "packed: deep": packed(rest="[" * 100_000 + "]" * 100_000),
    "packed: no JSON": packed(rest="state"),
    "packed: no text": packed(rest=""),
    "packed: a list": packed(rest="[1, 2]"),
    "packed: a number": packed(rest="7"),
    "packed: no index": packed(rest="{}"),
    "packed: a list as index": packed(rest='{"index": [1]}'),
    "packed: more": packed(shapes=[[3]]),
    "packed: fewer": packed(shapes=[[1]]),
    "packed: huge": packed(shapes=[[2**40]]),
    "packed: overflowing": packed(shapes=[[2**62, 2**62]]),
    "packed: negative": packed(shapes=[[-2, -1]]),
    "packed: one negative": packed(("v", "w"), shapes=[[-2], [4]]),
    "packed: unknown size": packed(shapes=[[-1]]),
    "packed: empty and unknown": packed(("v", "w"), shapes=[[2], [0, -1]]),
    "packed: empty and huge": packed(("v", "w"), shapes=[[2], [0, 2**62, 2**62]]),
    "packed: sizes in words": packed(shapes=[["2"]]),
    "packed: half sizes": packed(shapes=[[2.0]]),
    "packed: no shapes": packed(shapes=7),
    "packed: more dimensions than NumPy has": packed(shapes=[[2] + [1] * 100]),
    "packed: more names": packed(("v", "w")),
    "packed: more shapes": packed(("v",), shapes=[[2], [0]]),
    "packed: no list": packed(entry={"kind": "param"}),
    "packed: another list": packed(entry={"kind": "param", "list": 7}),
    "packed: no kind": packed(entry={"list": 0}),
}


def test_the_forger_forges_right(tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes(packed())
    assert fu.load(tmp_path / "run")["arrays"]["param.w"].tolist() == [0, 0]


@pytest.mark.parametrize("data", MALICE.values(), ids=MALICE)
def test_a_malicious_file_is_refused_within_little_memory(data: bytes, tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        message = refused(tmp_path / "run", data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert message is not None
    assert "damaged" not in message  # it is not for its checksum that it is refused
    assert peak < 10 * len(data) + (1 << 20)


STATES: dict[str, str] = {
    "nothing": "{}",
    "a later version": '{"version": 7, "rule": "adam"}',
    "infinite step": '{"version": 1, "rule": "adam", "flags": {"amsgrad": false}, "step": Infinity}',
}


@pytest.mark.parametrize("rest", STATES.values(), ids=STATES)
def test_a_forged_state_is_refused_by_the_optimizer(rest: str, tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes(forged(rest, entry(), EIGHT))
    state = fu.load(tmp_path / "run")
    opt = make()
    before = content(opt.state_dict())
    with pytest.raises(ValueError, match=r"\[adam\] state_dict"):
        opt.load_state_dict(state)
    assert content(opt.state_dict()) == before
