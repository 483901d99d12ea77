"""Beside other runtimes, under quotas, with little memory, and beyond 2³¹ elements: rows of the fault table that need a
process of their own. Each test's name has the row's number.
"""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from cases import BACKENDS, PARALLEL, by_backend, isas
from peers import peer
from processes import child

import fastupdate as fu
from fastupdate.engines import choose, threads

needs_native = pytest.mark.skipif(not isas(), reason="no native module")

NAMES = [backend.values[0] for backend in BACKENDS if not backend.marks]


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


@pytest.mark.parametrize("module", ["fastupdate", "fastupdate._core"])
def test_29_a_sub_interpreter_is_refused(module):
    """Compiled modules would wait there for a lock that is never free."""
    pytest.importorskip("_xxsubinterpreters", reason="Python 3.13 has another module for them")
    code = f"""
import _xxsubinterpreters as interpreters
other = interpreters.create(isolated=False)
try:
    interpreters.run_string(other, "import warnings; warnings.simplefilter('ignore'); import {module}")
except interpreters.RunFailedError as error:
    print(error)
"""  # NumPy is not imported by the main one: the second time it refuses by itself
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "ImportError'>: [fastupdate] interpreter: expected the main one of a process" in done.stdout, done.stderr


def test_29_affinity():
    code = """
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import fastupdate as fu
    print(json.dumps(fu.get_num_threads()))
    """
    assert child(code, FASTUPDATE_NUM_THREADS="", OMP_NUM_THREADS="") == 1


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"FASTUPDATE_NUM_THREADS": "5", "OMP_NUM_THREADS": "3"}, [5, True]),
        ({"OMP_NUM_THREADS": "3,2"}, [3, False]),
        ({"FASTUPDATE_NUM_THREADS": " , 5", "OMP_NUM_THREADS": "3"}, [3, False]),
    ],
    ids=["ours", "openmp", "none of ours"],
)
def test_29_threads_from_the_environment(environment, expected):
    """At the start, and again when it is asked for."""
    code = """
    import fastupdate as fu
    from fastupdate.engines import threads
    found = [[fu.get_num_threads(), threads.is_fixed()]]
    fu.set_num_threads(7)
    fu.set_num_threads(None)
    print(json.dumps([*found, [fu.get_num_threads(), threads.is_fixed()]]))
    """
    assert child(code, **{"FASTUPDATE_NUM_THREADS": "", **environment}) == [expected, expected]


# -- the backend ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("argument", "variable"), [("abacus", "numba"), (None, "abacus")])
def test_an_unknown_backend_is_blamed_on_who_named_it(argument, variable, monkeypatch):
    monkeypatch.setenv("FASTUPDATE_BACKEND", variable)
    blamed = "FASTUPDATE_BACKEND" if argument is None else "backend"
    with pytest.raises(ValueError, match=rf"^\[sgd\] {blamed}: expected one of native, numba, received 'abacus'$"):
        fu.SGD([np.ones(3)], backend=argument)


@pytest.mark.parametrize("place", ["site-packages", "clone"])
def test_a_source_folder_that_was_not_compiled_says_so(place, tmp_path, monkeypatch):
    """It is what a Python imports that is started in a clone."""
    monkeypatch.setitem(sys.modules, "fastupdate._core", None)
    monkeypatch.setattr(choose, "__file__", str(tmp_path / "fastupdate" / "engines" / "choose.py"))
    remedy = "install a wheel for this platform, or a compiler to build it with"
    if place == "clone":
        (tmp_path / "pyproject.toml").touch()
        remedy = f"{tmp_path} is the source: start Python elsewhere, or install it by `pip install -e .`"
    problem = choose.native_problem.__wrapped__()
    assert problem.startswith("import of fastupdate._core halted")
    assert problem.endswith(f"; {remedy}")


def v1(folder: str, quota: int) -> dict[str, str]:
    """The files of a cgroup of version 1."""
    return {f"{CGROUPS}/cpu/{folder}cpu.cfs_{name}_us": str(n) for name, n in (("quota", quota), ("period", 100_000))}


CGROUPS = "sys/fs/cgroup"
MEMBER = "proc/self/cgroup"
QUOTAS: dict[str, tuple[dict[str, str], float]] = {
    "v2": ({f"{CGROUPS}/cpu.max": "150000 100000"}, 1.5),
    "v2-max": ({f"{CGROUPS}/cpu.max": "max 100000"}, np.inf),
    "v1": (v1("", 50000), 0.5),
    "v1-none": (v1("", -1), np.inf),
    "no-cgroup": ({}, np.inf),
    "v2-nested": ({MEMBER: "0::/a/b\n", f"{CGROUPS}/a/b/cpu.max": "250000 100000"}, 2.5),
    "v2-above": (
        {
            MEMBER: "0::/a/b c:d\n",
            f"{CGROUPS}/a/b c:d/cpu.max": "max 100000",
            f"{CGROUPS}/a/cpu.max": "20000 10000",
            f"{CGROUPS}/cpu.max": "300000 100000",
        },
        2.0,
    ),
    "v2-of-others": ({MEMBER: "0::/a\n", f"{CGROUPS}/b/cpu.max": "100000 100000"}, np.inf),
    "v2-outside": ({MEMBER: "0::/../a\n", f"{CGROUPS}/cpu.max": "150000 100000", "sys/fs/a/cpu.max": "1 1"}, 1.5),
    "v1-nested": ({MEMBER: "12:pids:/x\n4:cpu,cpuacct:/a/b\n", **v1("a/b/", -1), **v1("a/", 350_000)}, 3.5),
    "v1-elsewhere": ({MEMBER: "4:cpuacct,cpu:/docker/a\n", **v1("", 250_000)}, 2.5),
    "v1-beside-v2": ({MEMBER: "1:cpu:/a\n0::/b\n", **v1("a/", 250_000), f"{CGROUPS}/b/cpu.max": "1500 1000"}, 1.5),
    "v1-other-groups": ({MEMBER: "3:cpuset:/a\n1:name=systemd:/a\n", **v1("a/", 100_000)}, np.inf),
}


@pytest.mark.parametrize("name", QUOTAS)
def test_29_quota(name, tmp_path, monkeypatch):
    files, expected = QUOTAS[name]
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    monkeypatch.setattr(threads, "Path", lambda path: tmp_path / path.removeprefix("/"))
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
@pytest.mark.parametrize("where", ["main thread", "another thread", "after fewer"])
def test_29_no_thread_can_be_started(backend, where):
    """OpenMP would end the process; the step is taken by the threads that there are."""
    code = f"""
    import fastupdate as fu
    fu.set_num_threads(4)
    p, g = np.zeros({PARALLEL}, np.float32), np.full({PARALLEL}, -1, np.float32)
    opt = fu.SGD([p], lr=1.0, backend={backend!r})
    fu.SGD([np.ones(1, np.float32)], lr=1.0, backend={backend!r}).step([np.ones(1, np.float32)])
    limited, tasks = threading.Event(), lambda: len(os.listdir("/proc/self/task"))
    def wait_for_ends():  # of OpenMP's threads; Numba's stay
        while {backend!r} == "native" and tasks() > 2:
            time.sleep(0.001)
    if {where!r} == "after fewer":
        opt.step([g])
        fu.set_num_threads(2)
        opt.step([g])  # OpenMP ends two threads
        wait_for_ends()
        threading.stack_size(64 << 20)
        last = threading.Thread(target=int)  # two that end at once leave both their stacks, and one that ends its own
        last.start()
        last.join()
        wait_for_ends()
        fu.set_num_threads(4)  # OpenMP is to start two threads
    def step():
        limited.wait()
        before = tasks()
        opt.step([g])
        print(json.dumps([float(p.min()) - opt.step_count, float(p.max()) - opt.step_count, tasks() - before]))
    other = threading.Thread(target=step)
    if {where!r} == "another thread":
        other.start()
    used = int(open("/proc/self/statm").read().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 20), resource.RLIM_INFINITY))
    limited.set()
    other.join() if other.ident else step()
    """
    large = "64M"  # stacks of which none is kept for later threads
    low, high, started = child(code, OPENBLAS_NUM_THREADS="1", OMP_STACKSIZE=large)
    assert low == high == 0.0
    assert started < 2, "the limit stopped nobody: nothing was shown"


STACKS = {  # and how many threads it leaves beside the first
    ("OMP_STACKSIZE", "1000000G"): 0,
    ("OMP_STACKSIZE", "1000000000M"): 0,
    ("OMP_STACKSIZE", " 1000000000000 "): 0,
    ("OMP_STACKSIZE", "1000000000000000 b"): 0,
    ("GOMP_STACKSIZE", "1000000g"): 0,
    ("OMP_STACKSIZE", "512"): 3,
    ("OMP_STACKSIZE", "1B"): 3,  # less than a stack can be: as if nothing had been said
    ("OMP_STACKSIZE", "1000000T"): 3,
    ("OMP_STACKSIZE", "99999999999G"): 3,
}


@needs_native
@pytest.mark.parametrize(("variable", "size"), STACKS)
def test_29_stacks_of_threads(variable, size):
    """OpenMP's threads have stacks of this size; where there is no room for such, a step does without them."""
    code = f"""
    import fastupdate as fu
    fu.set_num_threads(4)
    p, tasks = np.zeros({PARALLEL}, np.float32), len(os.listdir("/proc/self/task"))
    fu.SGD([p], lr=1.0, backend="native").step([np.ones({PARALLEL}, np.float32)])
    print(json.dumps([float(p.min()), float(p.max()), len(os.listdir("/proc/self/task")) - tasks]))
    """
    started = STACKS[variable, size]
    assert child(code, **{variable: size}) == [-1.0, -1.0, started]


@needs_native
@pytest.mark.skipif(os.geteuid() != 0, reason="not root: other processes of this user count too")
def test_29_few_threads_can_be_started():
    """Those that can be started are, also again and again at the very limit."""
    code = f"""
    import fastupdate as fu
    os.setuid(50_000 + os.getpid() % 10_000)
    p, g = np.zeros({PARALLEL}, np.float32), np.full({PARALLEL}, -1, np.float32)
    opt, tasks = fu.SGD([p], lr=1.0, backend="native"), len(os.listdir("/proc/self/task"))
    resource.setrlimit(resource.RLIMIT_NPROC, (tasks + 2, tasks + 2))
    for _ in range(50):
        fu.set_num_threads(2)
        opt.step([g])
        fu.set_num_threads(4)
        opt.step([g])
    print(json.dumps([float(p.min()), float(p.max()), len(os.listdir("/proc/self/task")) - tasks]))
    """
    low, high, started = child(code)
    assert low == high == 100.0
    assert started <= 2, "the limit stopped nobody: nothing was shown"


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
