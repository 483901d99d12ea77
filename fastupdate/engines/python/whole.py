"""Work in Python that no signal handler can cut short.

CPython runs handlers in the main thread, between any two bytecodes, and what they raise would leave a step half taken
or a lock of a thread pool closed for ever. So the main thread has such work done by another thread, and waits.
"""

from __future__ import annotations

import _thread
import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from queue import SimpleQueue
from typing import Any

PAUSE = 0.05  # seconds between two looks at whether a task is done, should its bell be missed


_libm = ctypes.CDLL(None)


class Mode:
    """The rounding and flush-to-zero mode of the thread that makes it, for threads that work for it: the bits of a step
    are then those of one thread."""

    def __init__(self) -> None:
        self._environment = ctypes.create_string_buffer(64)  # an fenv_t: 32 bytes on x86-64, 8 on aarch64
        _libm.fegetenv(self._environment)

    def run(self, work: Callable[[], None]) -> None:
        """work(), in this mode; the thread stays in it."""
        _libm.fesetenv(self._environment)
        work()


class Task:
    """Work to be done once, in the caller's mode, unless it is called off before it begins."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work, self._mode = work, Mode()
        self._begun, self._bell = _thread.allocate_lock(), _thread.allocate_lock()
        self._bell.acquire()
        self._over = False
        self._error: BaseException | None = None

    def begin(self) -> bool:
        """Whether nobody else has done so; true only once."""
        return self._begun.acquire(False)

    def run(self) -> None:
        if self.begin():
            try:
                self._mode.run(self._work)
            except BaseException as error:
                self._error = error
            self._over = True
            self._bell.release()

    def wait(self) -> None:
        """Until it is done. May be interrupted, and called again."""
        while not self._over:
            self._bell.acquire(True, PAUSE)

    def check(self) -> None:
        """Raises what the work has raised."""
        if self._error is not None:
            raise self._error


def done_whole(work: Callable[[], None]) -> None:
    """work(), or an exception from a handler before it has begun; one that comes later is raised when it is done."""
    tasks = _tasks() if threading.current_thread() is threading.main_thread() else None
    if tasks is None:
        return work()
    task = Task(work)
    try:
        tasks.put(task)
        task.wait()
    except BaseException:
        if not task.begin():
            task.wait()
        raise
    return task.check()


@cache
def _tasks() -> SimpleQueue[Task] | None:
    """What the main thread wants done, one after the other; None if there can be no thread to do it."""
    tasks: SimpleQueue[Task] = SimpleQueue()
    try:
        _thread.start_new_thread(_do, (tasks,))
    except RuntimeError:
        return None
    return tasks


def _do(tasks: SimpleQueue[Task]) -> None:
    while True:
        tasks.get().run()


os.register_at_fork(after_in_child=_tasks.cache_clear)  # a forked child has no threads but its own


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Ctrl-C within the block takes effect right after it: for work that is bound to its thread."""
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield
        return
    received: list[Any] = []
    signal.signal(signal.SIGINT, lambda *event: received.append(event))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if received:
            previous(*received[0])
