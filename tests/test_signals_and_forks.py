"""Signals, forks and exits, at random moments of steps: rows 17 and 18 of the fault table."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from cases import by_backend
from processes import HEADER, TIMEOUT, child

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
            soon = 1e-2 if opt.step_count > 20 else 0.2  # a busy machine takes some steps too
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-4, soon), 0.5)  # again, should one be swallowed
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


SIGNALS = """
import os, signal, sys, numpy as np, fastupdate as fu

class Alarm(Exception): pass

left = 0  # the interrupts that are to come

def handler(*_):
    global left
    left -= 1
    if left < 1:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if left >= 0:
        raise {"SystemExit": SystemExit, "Alarm": Alarm, "KeyboardInterrupt": KeyboardInterrupt}[sys.argv[1]]

signal.signal(signal.SIGALRM, handler)
names = [f"w{k}" for k in range(60)]
def filled(value):
    opt = fu.Adam({name: np.full(2000, value, np.float32) for name in names}, ema_decay=0.5)
    state = opt.state_dict()
    for key in state["arrays"]:
        state["arrays"][key] = np.full(2000, value, np.float32)
    state["arrays"].update({f"param.{name}": np.full(2000, value, np.float32) for name in names})
    state["step"] = value
    return state

states = [filled(value) for value in (3, 5)]
opt = fu.Adam({name: np.zeros(2000, np.float32) for name in names}, ema_decay=0.5)
opt.load_state_dict(states[0])
rng = np.random.default_rng(0)
torn, tried = [], 0

def look():
    items = opt.stepper.items
    arrays = [a for item in items for a, _ in item.arrays()]
    found = {float(x) for a in arrays for x in (a.min(), a.max())} | {float(opt.step_count)}
    if len(found) > 1:
        torn.append(sorted(found))
        opt.load_state_dict(states[0])
    frozen = {item.frozen for item in items}
    if len(frozen) > 1:
        torn.append("half frozen")

def work():
    while left > 0:  # two that come together raise one exception
        opt.load_state_dict(states[tried % 2])
        with opt.ema_weights():
            pass
        opt.freeze("*")
        opt.unfreeze("*")
        opt.resync()

errors = (SystemExit, Alarm, KeyboardInterrupt)
while tried < 150:
    left = 2
    try:
        try:  # the second may come while the first is being handled
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-4, 4e-3), rng.uniform(1e-4, 4e-3))
            work()
        except errors:
            work()
    except errors:
        pass
    tried += 1
    look()
sys.exit("; ".join(map(str, torn[:5])) or 0)
"""


@pytest.mark.parametrize("error", ["SystemExit", "Alarm", "KeyboardInterrupt"])
def test_signals_at_random_moments_leave_nothing_half_done(error: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SIGNALS, error], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr


# -- values that are set while a step runs -----------------------------------------------------------------------------

SETTING = """
import fastupdate as fu
from fastupdate import schedules
backend, how = sys.argv[1:]
sys.setswitchinterval(1e-5)

class Setter:
    # Sets a group's lr to 2, 3, 4 …
    def __init__(self, group):
        self.group, self.latest, self.busy = group, 1, False
    def __call__(self, *_):
        if not self.busy:  # a handler within a handler would set its value first
            self.busy, value = True, self.latest + 1
            self.group["lr"] = schedules.constant(value) if how == "schedules" and value % 2 else float(value)
            self.busy, self.latest = False, value

def steps(**options):
    p = [np.zeros(1 << 18), np.zeros(3)]
    g = [np.full_like(a, -1) for a in p]
    opt = fu.SGD(p, lr=1.0, groups=[{"params": "1", "lr": 1.0}], backend=backend, **options)
    opt.step(g)
    setters, done = [Setter(group) for group in opt.groups], threading.Event()
    def work():
        while not done.is_set():
            setters[1]()
            time.sleep(1e-5)
    signal.signal(signal.SIGALRM, setters[0])
    signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
    thread = threading.Thread(target=work)
    thread.start()
    lost, meanwhile = [], [0, 0]
    for _ in range(200):
        known, before = [each.latest for each in setters], [a[0] for a in p]
        opt.step(g)
        for k, (a, setter) in enumerate(zip(p, setters)):
            moved, latest = a[0] - before[k], setter.latest
            meanwhile[k] += latest > known[k]
            if not known[k] <= moved <= latest + 1 or (a != a[0]).any():
                lost.append([k, known[k], moved, latest])
    done.set()
    thread.join()
    signal.setitimer(signal.ITIMER_REAL, 0)
    before = [a[0] for a in p]
    opt.step(g)
    lost += [[k, setter.latest] for k, setter in enumerate(setters) if p[k][0] - before[k] != setter.latest]
    return lost, min(meanwhile)

print(json.dumps([steps(), steps(clip_norm=1e30, nonfinite="skip")]))
"""


@by_backend
@pytest.mark.parametrize("how", ["numbers", "schedules"])
def test_values_set_while_a_step_runs_are_not_lost(backend, how):
    """By a signal handler and by another thread: each is in force in the next step, or one that was set later."""
    for lost, meanwhile in child(SETTING, arguments=[backend, how]):
        assert lost == []
        assert meanwhile > 20, "hardly any value was set during a step: nothing was shown"


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
