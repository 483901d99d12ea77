"""Files: written whole or not at all, and read back byte for byte."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import by_rule
from checkpoints import content, layout, make  # noqa: F401 (layout is a fixture)
from peers import peer

import fastupdate as fu
from fastupdate.saving import file


@pytest.fixture(autouse=True, scope="module")
def _needs_safetensors() -> None:
    peer("safetensors")


# -- the format -------------------------------------------------------------------------------------------------------


@by_rule
@pytest.mark.usefixtures("layout")
def test_a_file_holds_the_state_and_the_parameters(case: Any, tmp_path: Path) -> None:
    opt = case.make({"w": np.arange(6.0).reshape(2, 3), "b": np.ones((), np.float32)}, shadow="bfloat16")
    opt.step({"w": np.ones((2, 3)), "b": np.ones((), np.float32)})
    opt.save(tmp_path / "run")
    expected = opt.state_dict()
    expected["arrays"] |= {"param.w": opt.stepper.tree["w"], "param.b": opt.stepper.tree["b"]}
    assert content(fu.load(tmp_path / "run")) == content(expected)


def test_the_file_is_one_that_safetensors_reads(tmp_path: Path) -> None:
    opt = make(ema_decay=0.9, shadow="float16")
    opt.save(tmp_path / "run.safetensors")
    read = peer("safetensors.numpy").load_file(tmp_path / "run.safetensors")
    assert json.loads(read.pop("fastupdate").tobytes())["rule"] == "adam"
    assert content({"arrays": read}) == content({"arrays": fu.load(tmp_path / "run.safetensors")["arrays"]})
    assert read["param.w"].tobytes() == np.ascontiguousarray(opt.stepper.tree["w"]).tobytes()


@pytest.mark.usefixtures("layout")
def test_equal_states_give_equal_files(tmp_path: Path) -> None:
    make().save(tmp_path / "a")
    make().save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def header_of(path: Path) -> tuple[int, dict[str, Any]]:
    """The length of a file's header, and its entries."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return length, {key: entry for key, entry in json.loads(data[8 : 8 + length]).items() if key != "__metadata__"}


@pytest.mark.usefixtures("layout")
def test_arrays_are_aligned_in_the_file(tmp_path: Path) -> None:
    make(shadow="float16").save(tmp_path / "run")
    length, entries = header_of(tmp_path / "run")
    sizes = {"U8": 1, "F16": 2, "F32": 4, "F64": 8}
    starts = [(length + entry["data_offsets"][0]) % sizes[entry["dtype"]] for entry in entries.values()]
    assert starts == [0] * len(entries)


def test_a_long_list_has_a_short_header_and_its_names_once(tmp_path: Path) -> None:
    """The safetensors library reads none of more than 100 MB: a million entries."""
    names = [f"layer {k}.{'name' * 20}" for k in range(file.TOGETHER)]
    opt = fu.Adam({name: np.full(1 + k % 3, k, np.float32) for k, name in enumerate(names)}, ema_decay=0.5)
    opt.save(tmp_path / "run")
    length, entries = header_of(tmp_path / "run")
    assert set(entries) == {"fastupdate", "ema F32", "param F32", "state.m F32", "state.v F32"}
    assert length < 1000
    assert (tmp_path / "run").read_bytes().count(names[7].encode()) == 3  # among tensors, in a group, in the index
    opt.step({name: np.ones_like(p) for name, p in opt.stepper.tree.items()})
    opt.load_state_dict(fu.load(tmp_path / "run"))
    assert all((p == k).all() for k, p in enumerate(opt.stepper.tree.values()))


NAMES = ["", "naïve μ", 'quote" and \\', "__metadata__", "a" * 300, "new\nline"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_any_name_comes_back(name: str, tmp_path: Path) -> None:
    opt = fu.SGD({name: np.ones(2)}, momentum=0.9)
    opt.save(tmp_path / "run")
    assert f"state.b.{name}" in fu.load(tmp_path / "run")["arrays"]


def test_a_name_that_is_no_unicode_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        fu.SGD({"\udc80": np.ones(2)}).save(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


# -- writing ----------------------------------------------------------------------------------------------------------


def test_the_file_has_the_usual_permissions(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        make().save(tmp_path / "run")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o640


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o755])
def test_a_file_keeps_its_permissions(mode: int, tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    (tmp_path / "run").chmod(mode)
    make().save(tmp_path / "run")
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == mode
    assert fu.load(tmp_path / "run")["step"] == 2


SPECIAL: dict[str, Callable[[Path], Any]] = {
    "a directory": lambda path: path.mkdir(),
    "a device, pipe or socket": os.mkfifo,
}


@pytest.mark.parametrize(("kind", "create"), SPECIAL.items(), ids=SPECIAL)
@pytest.mark.parametrize("link", [False, True])
def test_what_is_no_file_is_not_replaced(kind: str, create: Any, link: bool, tmp_path: Path) -> None:
    create(tmp_path / "there")
    (tmp_path / "link").symlink_to(tmp_path / "there")
    before = (tmp_path / "there").stat()
    path = tmp_path / ("link" if link else "there")
    with pytest.raises(ValueError, match=rf"\[checkpoint\] .*/there: expected a regular file .*, received {kind}"):
        make().save(path)
    assert (tmp_path / "there").stat() == before
    assert sorted(os.listdir(tmp_path)) == ["link", "there"]


def test_a_device_is_not_replaced() -> None:
    with pytest.raises(ValueError, match=r"\[checkpoint\] /dev/null: expected a regular file"):
        make().save("/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_what_a_killed_process_left_behind_is_removed_by_the_next(tmp_path: Path) -> None:
    left, recent, locked = (tmp_path / f".fastupdate-{name}.tmp" for name in ("left", "recent", "locked"))
    for path in (left, recent, locked):
        path.touch()
    for path in (left, locked):
        os.utime(path, (1e9, 1e9))
    with open(locked, "rb") as writing:
        fcntl.flock(writing, fcntl.LOCK_EX)
        make().save(tmp_path / "run")
    assert sorted(os.listdir(tmp_path)) == sorted([locked.name, recent.name, "run"])


def test_a_link_goes_on_pointing_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "latest").symlink_to(tmp_path / "there" / "run")
    make().save(tmp_path / "latest")
    assert (tmp_path / "latest").is_symlink()
    assert os.listdir(tmp_path / "there") == ["run"]


def test_data_and_directory_are_on_the_disk_before_and_after_the_swap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def kind_of(fd: int) -> str:
        return "directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"

    monkeypatch.setattr(os, "fsync", lambda fd: calls.append(f"fsync {kind_of(fd)}") or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda a, b: calls.append("replace") or replace(a, b))
    make().save(tmp_path / "run")
    assert calls == ["fsync file", "replace", "fsync directory"]


FAILURES: dict[str, tuple[str, BaseException]] = {
    "sync fails": ("fsync", OSError(errno.EIO, "Input/output error")),
    "swap fails": ("replace", OSError(errno.EACCES, "Permission denied")),
    "interrupt": ("fsync", KeyboardInterrupt()),
}


@pytest.mark.parametrize(("function", "error"), FAILURES.values(), ids=FAILURES)
def test_a_failure_leaves_the_old_file_and_nothing_else(
    function: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make().save(tmp_path / "run")
    old = (tmp_path / "run").read_bytes()

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(type(error)):
        make(1).save(tmp_path / "run")
    assert os.listdir(tmp_path) == ["run"]
    assert (tmp_path / "run").read_bytes() == old


@pytest.mark.parametrize(("folder", "error"), [("none", FileNotFoundError), ("file", NotADirectoryError)])
def test_where_no_file_can_be_the_error_names_the_one_that_was_asked_for(
    folder: str, error: type[OSError], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(error) as raised:
        make().save(tmp_path / folder / "run")
    assert raised.value.filename == str(tmp_path / folder / "run")
    assert os.listdir(tmp_path) == ["file"]


FULL_DISK = """
import errno, resource, sys
import numpy as np
import fastupdate as fu
opt = fu.Adam({"w": np.ones(100_000)})
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    opt.save(sys.argv[1])
except OSError as error:
    sys.exit(0 if error.errno == errno.EFBIG else str(error))
sys.exit("saved")
"""


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    make().save(tmp_path / "run")
    old = (tmp_path / "run").read_bytes()
    subprocess.run([sys.executable, "-c", FULL_DISK, tmp_path / "run"], check=True)
    assert os.listdir(tmp_path) == ["run"]
    assert (tmp_path / "run").read_bytes() == old


SAVE_FOR_EVER = """
import sys
import numpy as np
import fastupdate as fu
opt = fu.Adam({"w": np.zeros(200_000)})
while True:
    opt.save(sys.argv[1])
    print("saved", flush=True)
    opt.step({"w": np.ones(200_000)})
"""


def test_whenever_the_process_is_killed_a_whole_file_remains(tmp_path: Path) -> None:
    """Killed some time after a first save, a second one, …: what the machine has reached by then does not matter."""
    path, rng = tmp_path / "run", random.Random(0)
    for saves in range(1, 9):
        with subprocess.Popen([sys.executable, "-c", SAVE_FOR_EVER, path], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(saves):
                process.stdout.readline()
            time.sleep(rng.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
        state = fu.load(path)
        assert state["step"] >= saves - 1
        assert set(state["tensors"]["w"].values()) == {state["step"], 0}
        assert state["arrays"]["state.m.w"][0] == state["arrays"]["state.m.w"][-1]
        fu.Adam({"w": np.zeros(200_000)}).load_state_dict(state)
    assert all(name == "run" or name.startswith(".fastupdate-") for name in os.listdir(tmp_path))


# -- the extra --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["save", "load"])
def test_without_safetensors_the_extra_is_named(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opt = make()
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=r"pip install fastupdate\[checkpoint\]"):
        opt.save(tmp_path / "run") if call == "save" else fu.load(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    opt.load_state_dict(opt.state_dict())  # NumPy alone


@pytest.mark.parametrize("page", ["checkpoints", "transfer_learning"])
def test_the_examples_in_the_documentation_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[1] / "docs" / f"{page}.md").read_text()
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    exec("\n".join(blocks), {})
    assert blocks
