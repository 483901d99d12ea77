"""What a library must not do to its process, and what the process may do to it: the rows of the fault table that need
a process of their own. Each test's name has the row's number.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import BACKENDS, PARALLEL, by_backend, by_engine, isas
from peers import peer

import fastupdate as fu
from fastupdate.engines import threads

x86_only = pytest.mark.skipif(platform.machine() != "x86_64", reason="MXCSR and these instruction sets are x86's")
needs_native = pytest.mark.skipif(not isas(), reason="no native module")

NAMES = [backend.values[0] for backend in BACKENDS if not backend.marks]

HEADER = """
import json, os, resource, signal, sys, threading, time
import numpy as np
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job may have been told to ignore it
"""


TIMEOUT = 240  # seconds: a child that hangs, not one on a busy machine


def child(code: str, arguments: list[str] | None = None, **environment: str) -> Any:
    """What the code prints last, as JSON, having run in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", HEADER + textwrap.dedent(code), *(arguments or [])],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout.splitlines()[-1])


# -- row 17: Ctrl-C ---------------------------------------------------------------------------------------------------

STEPPING = """
import signal
import fastupdate as fu
backend, how = sys.argv[1:]
class Alarm(BaseException): pass
def alarm(*_):
    raise Alarm
signal.signal(signal.SIGALRM, (lambda *_: os.kill(os.getpid(), signal.SIGINT)) if how == "Ctrl-C" else alarm)
options = {"clip_norm": 1e30, "nonfinite": "skip"} if how == "alarm, clipped" else {}
rng = np.random.default_rng(0)
def interrupted(sizes):
    params = [np.zeros(n, np.float32) for n in sizes]
    grads = [np.full(n, -1, np.float32) for n in sizes]
    opt = fu.SGD(params, lr=1.0, backend=backend, **options)
    opt.bind(grads)
    opt.step()
    interrupts = torn = 0
    while interrupts < 100:
        try:
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-4, 1e-2), 0.5)  # again, should one be swallowed
            while True:
                opt.step() if interrupts % 2 else opt.step(grads)
        except (KeyboardInterrupt, Alarm):
            signal.setitimer(signal.ITIMER_REAL, 0)
            interrupts += 1
            torn += any((p != opt.step_count).any() for p in params)
    before = opt.step_count
    opt.step(grads)
    return [torn, opt.step_count - before, before]
print(json.dumps([interrupted([1000, 1 << 20, 7]), interrupted([5] * 200)]))
"""


@by_backend
@pytest.mark.parametrize("how", ["Ctrl-C", "alarm", "alarm, clipped"])
def test_17_interrupted(backend, how):
    """A hundred interrupts at random moments: every element has taken as many steps as step_count says."""
    for torn, further, steps in child(STEPPING, arguments=[backend, how]):
        assert (torn, further) == (0, 1)
        assert steps > 10


@by_backend
def test_17_interrupted_from_outside(backend):
    """The same by a signal of another process, as a terminal sends it, in the middle of large steps."""
    code = """
    import fastupdate as fu
    p, g = np.zeros(1 << 21, np.float32), np.full(1 << 21, -1, np.float32)
    opt = fu.SGD([p], lr=1.0, backend=sys.argv[1])
    opt.step([g])
    print("ready", flush=True)
    try:
        while True:
            opt.step([g])
    except KeyboardInterrupt:
        print(json.dumps([int(p.min()), int(p.max()), opt.step_count]))
    """
    command = [sys.executable, "-c", HEADER + textwrap.dedent(code), backend]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        low, high, steps = json.loads(process.communicate(timeout=TIMEOUT)[0])
    assert low == high == steps


# -- row 18: fork -----------------------------------------------------------------------------------------------------


@by_backend
def test_18_fork_after_a_parallel_step(backend):
    """The child steps, with the same bits, and exits; so does the parent afterwards."""
    code = f"""
    import fastupdate as fu
    fu.set_num_threads(3)
    p, g = np.ones(400_000, np.float32), np.ones(400_000, np.float32)
    opt = fu.Adam([p], backend={backend!r})
    opt.step([g])
    pid = os.fork()
    if pid == 0:
        opt.step([g])
        fresh = np.ones(400_000, np.float32)
        fu.Adam([fresh], backend={backend!r}).step([g])
        os._exit(0 if (p == p[0]).all() and (fresh == fresh[0]).all() and opt.step_count == 2 else 1)
    deadline = time.time() + 30
    status = (0, 0)
    while status[0] == 0 and time.time() < deadline:
        status = os.waitpid(pid, os.WNOHANG)
        time.sleep(0.01)
    if status[0] == 0:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    opt.step([g])
    print(json.dumps([status[0] == pid, status[1], opt.step_count]))
    """
    assert child(code) == [True, 0, 2]


FORKS = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of CPython 3.12, for forks where there are threads
import fastupdate as fu
from fastupdate import schedules
backend, how = sys.argv[1:]
fu.set_num_threads(2)
n = 100_000
sizes = [n] * 8 + [3]
p, g = ([np.full(k, value, np.float32) for k in sizes] for value in (0, -1))
options = {"monitored": {"monitor": True}, "lent": {"ema_decay": 0.5}}.get(how, {})
opt = fu.SGD(p, lr=1.0, backend=backend, **options)
other = fu.SGD([np.zeros(4 * n, np.float32)], lr=1.0, backend=backend, monitor=True)
stepping, done, errors = threading.Event(), threading.Event(), []

def take_step():
    if how == "accumulated":
        opt.accumulate(g)
        opt.accumulate(g)
        return opt.step()
    if how == "loaded":
        opt.load_state_dict(opt.state_dict())
    return opt.step(g)

def work():
    while not done.is_set():
        try:
            take_step().tensors
        except BaseException as error:
            errors.append(repr(error))
        stepping.set()

def whole(step_count):
    return all((a == step_count).all() for a in p) and opt.step_count == step_count

def child():
    opt.discard()  # a micro-batch of which the other thread would have added the second
    if not whole(opt.step_count):
        return 2
    before = opt.step_count
    take_step().tensors
    fresh = fu.SGD([np.zeros(n, np.float32)], lr=1.0, backend=backend, monitor=True)
    fresh.step([g[0]]).tensors
    other.step([np.ones(4 * n, np.float32)]).tensors
    return 0 if whole(before + 1) else 3

def fork():
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        status = 4
        try:
            status = child()
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1]

other.step([np.ones(4 * n, np.float32)])
thread = threading.Thread(target=work)
thread.start()
stepping.wait()
statuses = []
for k in range(20):
    time.sleep(0.0007 * k)
    statuses.append(fork())
done.set()
thread.join()
print(json.dumps([statuses, errors, whole(opt.step_count)]))
"""


@by_backend
@pytest.mark.parametrize("how", ["plain", "monitored", "accumulated", "loaded"])
def test_18_fork_while_another_thread_steps(backend, how):
    """The child finds whole steps and an optimizer that is free; the other thread notices nothing."""
    assert child(FORKS, arguments=[backend, how]) == [[0] * 20, [], True]


@by_backend
def test_18_fork_from_within_a_call(backend):
    """A fork waits for other threads alone: not for the call that forks, nor for a block that has lent the average."""
    code = f"""
    import fastupdate as fu
    def rate(step):
        if step == 1:
            forked()
        return 1.0
    statuses = []
    def forked(look=lambda: 0):
        pid = os.fork()
        if pid == 0:
            statuses.append("child")
            look()
        else:
            statuses.append(os.waitpid(pid, 0)[1])
    p, g = np.zeros(3, np.float32), np.full(3, -1, np.float32)
    opt = fu.SGD([p], lr=rate, ema_decay=0.5, backend={backend!r})
    began = time.monotonic()
    for _ in range(3):
        opt.step([g])
    if "child" in statuses:
        os._exit(0 if (p == 3).all() and opt.step_count == 3 else 1)
    average = opt.ema[0].copy()
    with opt.ema_weights():
        forked()
        assert (p == average).all()
    opt.step([g])
    if "child" in statuses:
        os._exit(0 if (p == 4).all() and opt.step_count == 4 else 1)
    print(json.dumps([statuses, p.tolist(), time.monotonic() - began < 30]))
    """
    assert child(code) == [[0, 0], [4.0] * 3, True]


# -- exit while another thread steps ----------------------------------------------------------------------------------

EXIT = """
import fastupdate as fu
backend, how = sys.argv[1:]
fu.set_num_threads(2)
p, g = np.ones(300_000, np.float32), np.ones(300_000, np.float32)
opt = fu.SGD([p], backend=backend, monitor=how == "monitored")
begun = threading.Event()
def work():
    while True:
        fu.functional.sgd(p, g, step=1) if how == "functional" else opt.step([g]).tensors
        begun.set()
threading.Thread(target=work, daemon=True).start()
begun.wait()
time.sleep(0.001 * os.getpid() % 0.01)
print(json.dumps("left"), flush=True)
"""


@by_backend
@pytest.mark.parametrize("how", ["optimizer", "monitored", "functional"])
def test_exit_while_a_daemon_thread_steps(backend, how):
    """CPython ends such a thread when it asks for the GIL again, which C++ must not take for an exception."""
    for _ in range(3):
        assert child(EXIT, arguments=[backend, how]) == "left"


# -- row 22: threads are really used ----------------------------------------------------------------------------------


@by_backend
def test_22_threads_are_used(backend):
    """The parity tests would show nothing if everything ran on one thread."""
    code = f"""
    import fastupdate as fu
    def started(n):
        before = len(os.listdir("/proc/self/task"))
        fu.SGD([np.ones(n, np.float32)], backend={backend!r}).step([np.ones(n, np.float32)])
        return len(os.listdir("/proc/self/task")) - before
    started(10)
    fu.set_num_threads(7)
    print(json.dumps([started(1_000), started({PARALLEL})]))
    """
    small, large = child(code)
    assert small == 0, "not worth waking a thread"
    assert large == 6 if backend == "native" else large >= 1, "Numba's pool starts no thread while one is idle"


# -- row 23: the floating-point environment ---------------------------------------------------------------------------

MXCSR = """
import ctypes, mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(b"\\x0f\\xae\\x1f\\xc3" + b"\\x0f\\xae\\x17\\xc3")  # stmxcsr [rdi]; ret; ldmxcsr [rdi]; ret
base = ctypes.addressof(ctypes.c_char.from_buffer(page))
store = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_uint32))(base)
load = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_uint32))(base + 4)
def control():
    value = ctypes.c_uint32()
    store(value)
    return value.value & 0xFFC0  # without the exception flags
"""


MODES = {"flush-to-zero": 0x9FC0, "round-to-zero": 0x7F80, "default": 0x1F80}


@x86_only
@by_backend
def test_23_floating_point_environment(backend):
    """Import and steps leave rounding, flush-to-zero and denormals-are-zero as they were."""
    code = f"""
    seen = []
    for mode in {[*MODES.values()]}:
        load(ctypes.c_uint32(mode))
        import fastupdate as fu
        seen.append(control())
        opt = fu.Adam([np.ones(200_000, np.float32)], backend={backend!r}, shadow="float16", clip_norm=1.0)
        for _ in range(2):
            opt.step([np.ones(200_000, np.float32)])
            seen.append(control())
    print(json.dumps(seen))
    """
    assert child(MXCSR + textwrap.dedent(code)) == [mode & 0xFFC0 for mode in MODES.values() for _ in range(3)]


@x86_only
def test_23_what_float32_holds_is_known_whatever_the_mode():
    """An ε that float32 turns into 0 is refused by a process that flushes subnormals too."""
    code = f"""
    load(ctypes.c_uint32({MODES["flush-to-zero"]}))
    import fastupdate as fu
    try:
        fu.Adam([np.ones(4, np.float32)], eps=2.0**-150).step([np.ones(4, np.float32)])
    except ValueError as error:
        print(json.dumps("eps" in str(error)))
    """
    assert child(MXCSR + textwrap.dedent(code))


@needs_native
def test_23_no_fast_math_object():
    """GCC's -ffast-math links crtfastmath.o, whose constructor switches denormals off in the whole process."""
    from fastupdate import _core

    assert b"set_fast_math" not in Path(_core.__file__).read_bytes()
    assert not [line for line in build_commands() if "fast-math" in line or "-Ofast" in line]


ROOT = Path(__file__).resolve().parents[1]


def build_commands() -> list[str]:
    """The lines of the build file that set flags."""
    return [line for line in (ROOT / "CMakeLists.txt").read_text().splitlines() if not line.lstrip().startswith("#")]


# -- row 25: older processors -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def objects() -> dict[str, list[Path]]:
    """The object files of the latest build, by target."""
    builds = sorted(ROOT.glob("build/*/CMakeFiles/_core.dir"), key=lambda path: path.stat().st_mtime)
    if not builds or not shutil.which("objdump"):
        pytest.skip("needs a build tree in build/ and objdump: an installed module has no symbols to tell levels apart")
    found: dict[str, list[Path]] = {}
    for path in builds[-1].parent.rglob("*.o"):
        target = path.relative_to(builds[-1].parent).parts[0].removesuffix(".dir")
        found.setdefault(target, []).append(path)
    return found


def tool(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


AVX = re.compile(r"%[yz]mm|\tv[a-z0-9]+ .*%xmm")


@x86_only
def test_25_baseline_has_no_avx(objects):
    """Module initialisation, the borders and level v2 run on any x86-64-v2 processor."""
    plain = [path for target, paths in objects.items() if not target.endswith(("v3", "v4")) for path in paths]
    assert any("v2" in str(path) for path in plain)
    assert any("core_module" in str(path) for path in plain)
    for path in plain:
        code = tool("objdump", "-d", "--no-show-raw-insn", str(path))
        assert not AVX.search(code), f"{path.name}: {AVX.search(code)}"
    wide = [path for target, paths in objects.items() if target.endswith("v4") for path in paths]
    assert any("%zmm" in tool("objdump", "-d", str(path)) for path in wide), "the pattern finds nothing anywhere"


@x86_only
def test_25_levels_share_no_inline_code(objects):
    """A weak symbol that two levels define could be kept in its AVX-512 form for every processor."""
    for target, paths in objects.items():
        for path in paths if target.endswith(("v3", "v4")) else []:
            symbols = [line.split() for line in tool("nm", "--defined-only", "--extern-only", str(path)).splitlines()]
            foreign = [fields[-1] for fields in symbols if target[-2:] not in fields[-1]]
            assert not foreign, f"{path.name} defines {foreign}"


@x86_only
@needs_native
@pytest.mark.parametrize("isa", isas())
def test_25_isa_from_the_environment(isa):
    code = """
    import fastupdate as fu
    from fastupdate import _core
    p = np.ones(9, np.float32)
    fu.SGD([p], lr=1.0, backend="native").step([p * 3])
    print(json.dumps([_core.selected_isa(), p.tolist()]))
    """
    assert child(code, FASTUPDATE_ISA=isa) == [isa, [-2.0] * 9]


@needs_native
def test_25_unknown_isa():
    code = """
    try:
        import fastupdate as fu
        fu.SGD([np.ones(9)], backend="native")
    except ValueError as error:
        print(json.dumps(str(error)))
    """
    expected = f"FASTUPDATE_ISA: expected one of {', '.join(isas())}, received 'v9'"
    assert child(code, FASTUPDATE_ISA="v9") == expected


# -- row 29: other runtimes, quotas, memory ---------------------------------------------------------------------------


@pytest.mark.peer
def test_29_beside_torch_and_scikit_learn():
    """Four thread pools take turns in one process."""
    peer("torch"), peer("sklearn")
    code = f"""
    import warnings
    warnings.simplefilter("ignore")
    import torch
    import fastupdate as fu
    from sklearn.cluster import KMeans
    fu.set_num_threads(3)
    torch.set_num_threads(3)
    points = np.random.default_rng(0).standard_normal((3000, 8))
    params = [torch.ones(300_000) for _ in {NAMES}]
    opts = [fu.SGD([p], lr=1.0, backend=name) for p, name in zip(params, {NAMES})]
    for _ in range(3):
        for p, opt in zip(params, opts):
            p.grad = torch.ones(300_000) * torch.mm(torch.ones(200, 200), torch.ones(200, 200))[0, 0] / 200
            opt.step()
        KMeans(4, n_init=1, max_iter=5, random_state=0).fit(points)
    print(json.dumps([[float(p.min()), float(p.max())] for p in params]))
    """
    assert child(code) == [[-2.0, -2.0]] * len(NAMES)


def test_29_affinity():
    code = """
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import fastupdate as fu
    print(json.dumps(fu.get_num_threads()))
    """
    assert child(code, FASTUPDATE_NUM_THREADS="", OMP_NUM_THREADS="") == 1


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({"FASTUPDATE_NUM_THREADS": "5", "OMP_NUM_THREADS": "3"}, 5), ({"OMP_NUM_THREADS": "3,2"}, 3)],
    ids=["ours", "openmp"],
)
def test_29_threads_from_the_environment(environment, expected):
    code = "import fastupdate as fu; print(json.dumps(fu.get_num_threads()))"
    assert child(code, **{"FASTUPDATE_NUM_THREADS": "", **environment}) == expected


QUOTAS: dict[str, tuple[dict[str, str], float]] = {
    "v2": ({"cpu.max": "150000 100000"}, 1.5),
    "v2-max": ({"cpu.max": "max 100000"}, np.inf),
    "v1": ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
    "v1-none": ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, np.inf),
    "no-cgroup": ({}, np.inf),
}


@pytest.mark.parametrize("name", QUOTAS)
def test_29_quota(name, tmp_path, monkeypatch):
    files, expected = QUOTAS[name]
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    monkeypatch.setattr(threads, "Path", lambda path: tmp_path / Path(path).relative_to("/sys/fs/cgroup"))
    assert threads.cgroup_quota() == expected
    monkeypatch.delenv("FASTUPDATE_NUM_THREADS", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert threads.default_threads() == (8 if expected == np.inf else int(np.ceil(expected)))


@by_backend
def test_29_out_of_memory(backend):
    """An optimizer, or an accumulator, that does not fit is a MemoryError, and nothing has changed."""
    code = f"""
    import fastupdate as fu
    fu.set_num_threads(2)
    n = 1 << 24
    p, g = np.ones(n, np.float32), np.ones(n, np.float32)
    one = np.ones(1, np.float32)
    warm = fu.SGD([one], lr=0.5, backend={backend!r})
    warm.accumulate([one.copy()])  # what Numba compiles takes memory too
    warm.step()
    plain = fu.SGD([p], lr=0.5, backend={backend!r})
    plain.step([g])
    used = int(open("/proc/self/statm").read().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (used + (48 << 20), resource.RLIM_INFINITY))
    caught = []
    for call in (lambda: fu.Adam([p], backend={backend!r}), lambda: plain.accumulate([g])):
        try:
            call()
        except MemoryError as error:
            caught.append(str(error).split(" ")[0])
    unchanged = bool((p == 0.5).all() and (g == 1).all())
    plain.step([g])
    print(json.dumps([caught, unchanged, float(p[0]), plain.step_count]))
    """
    assert child(code) == [["Unable", "Unable"], True, 0.0, 2]


@by_backend
def test_29_no_thread_can_be_started(backend):
    """OpenMP would end the process; the step is taken by the threads that there are."""
    code = f"""
    import fastupdate as fu
    fu.set_num_threads(4)
    p, g = np.ones({PARALLEL}, np.float32), np.ones({PARALLEL}, np.float32)
    opt = fu.SGD([p], lr=1.0, backend={backend!r})
    fu.SGD([np.ones(1, np.float32)], lr=1.0, backend={backend!r}).step([np.ones(1, np.float32)])
    used, tasks = int(open("/proc/self/statm").read().split()[0]) * 4096, len(os.listdir("/proc/self/task"))
    resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 20), resource.RLIM_INFINITY))
    opt.step([g])
    print(json.dumps([float(p.min()), float(p.max()), len(os.listdir("/proc/self/task")) - tasks]))
    """
    low, high, started = child(code, OPENBLAS_NUM_THREADS="1")
    assert low == high == 0.0
    assert started == 0, "the limit stopped nobody: nothing was shown"


# -- row 6: more elements than an int32 can count ---------------------------------------------------------------------

HUGE = """
import ctypes
import fastupdate as fu
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
CHUNK, FIXED, SHARED, RESERVE = 1 << 24, 0x10, 1, 0x4022  # private, anonymous, without reserving memory
n = (1 << 31) + 3000
size = -(-n * 4 // CHUNK) * CHUNK
def array(own):
    \"\"\"n float32 in a few megabytes: pages repeat, but for the elements in `own`.\"\"\"
    file = os.memfd_create("pages")
    os.ftruncate(file, CHUNK * (1 + len(own)))
    base = libc.mmap(None, size, 3, RESERVE, -1, 0)
    where = {k * 4 // CHUNK: slot for slot, k in enumerate(own, 1)}
    for k in range(size // CHUNK):
        at = libc.mmap(base + k * CHUNK, CHUNK, 3, SHARED | FIXED, file, CHUNK * where.get(k, 0))
        assert at == base + k * CHUNK, ctypes.get_errno()
    return np.ctypeslib.as_array(ctypes.cast(base, ctypes.POINTER(ctypes.c_float)), (n,))
own = [0, (1 << 31) - 2000, n - 1]
p, g = array(own), array(own)
first, boundary, last = slice(0, 5), slice((1 << 31) - 5, (1 << 31) + 5), slice(n - 5, n)
for k, where in enumerate((first, boundary, last), 1):
    g[where] = k
fu.set_num_threads(1)
fu.SGD([p], lr=1.0, backend="native").step([g])
print(json.dumps([p[where].tolist() for where in (first, boundary, last)]))
"""


@needs_native
def test_6_more_than_two_to_the_31_elements():
    first, boundary, last = child(HUGE)
    assert first == [-1.0] * 5
    assert boundary == [-2.0] * 10
    assert last == [-3.0] * 5


# -- row 24: denormals ------------------------------------------------------------------------------------------------


@by_engine
def test_24_denormals_are_exact(engine):
    """Multiples of the smallest number, which flushing would make 0. Their cost is the processor's: see bench/."""
    smallest, k = 2.0**-149, np.arange(20_000.0)
    p = np.zeros(len(k), np.float32)
    opt = fu.SGD([p], lr=0.5, momentum=1.0, backend=engine.select())
    opt.state["b"][0][:] = 2 * k * smallest
    for _ in range(3):
        opt.step([np.zeros(len(k), np.float32)])
    np.testing.assert_array_equal(opt.state["b"][0], 2 * k * smallest)
    np.testing.assert_array_equal(p, -3 * k * smallest)
