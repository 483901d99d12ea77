"""Forks while other threads take steps: each waits until those steps have been taken, so that the child, in which only
the thread that forks goes on, finds whole steps and open locks.
"""

from __future__ import annotations

import os
import threading
from typing import Protocol
from weakref import ref

PATIENCE = 10.0  # seconds: a step may itself wait for the thread that forks, by a schedule of the user's


class Busy(Protocol):
    """Whoever may be in the midst of a call when there is a fork."""

    lock: threading.Lock  # taken during calls
    caller: int  # the thread that took it last
    lent: bool  # whether it is taken for as long as the user likes


_under_way = threading.RLock()  # of a thread that forks
_forking = 0  # how often it has heard of that
_heeded: set[ref[Busy]] = set()
_held: list[threading.Lock] = []


def heed(busy: Busy) -> None:
    """From now on forks wait for the calls of this one."""
    _heeded.add(ref(busy, _heeded.discard))


def let_pass() -> None:
    """Waits until a fork of another thread is over."""
    with _under_way:
        pass


def wait_first() -> None:
    """Lets forks wait for calls before they take what was imported before this: calls may need it to end."""
    os.register_at_fork(before=_wait, after_in_parent=_go_on, after_in_child=_go_on)


def _wait() -> None:
    global _forking  # noqa: PLW0603
    _under_way.acquire()
    _forking += 1
    for busy in filter(None, (living() for living in tuple(_heeded))) if _forking == 1 else ():
        own = busy.caller == threading.get_ident()  # the fork is within the call, and the child will end it
        if busy.lock.acquire(timeout=0 if own or busy.lent else PATIENCE):
            _held.append(busy.lock)


def _go_on() -> None:
    global _forking  # noqa: PLW0603
    _forking -= 1
    while _held and not _forking:
        _held.pop().release()
    _under_way.release()


wait_first()
