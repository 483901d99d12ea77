"""An exception at any bytecode of a call: what a signal handler may do to a program, done at every place in turn.

Left out are NOPs, and the few bytecodes from the end of a `with` block to the call of its __exit__: no handler runs
there, and the compiler leaves them outside of the block.
FASTUPDATE_TEST_BYTECODES=all tries every place, as each night; without it, one or a few in each function.
"""

from __future__ import annotations

import dis
import gc
import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from types import CodeType, FrameType
from typing import Any, NamedTuple

TESTS = os.path.dirname(__file__)


class InterruptError(BaseException):
    """What the handler raises: no KeyboardInterrupt, and no Exception."""


class Spot(NamedTuple):
    """A bytecode of a call: the `run`-th time (from 0) that the one at `offset` of this code is about to run."""

    code: CodeType
    offset: int
    run: int


def trace(call: Callable[[], Any], visit: Callable[[CodeType, int], None], only: CodeType | None = None) -> None:
    """call(), with visit(code, offset) before each bytecode of what it calls outside the tests, or of `only`.

    The collector rests: it would run finalizers of what earlier tests have left, now here and now there.
    """

    def inside(frame: FrameType, event: str, _: Any) -> Any:
        if event == "opcode":
            visit(frame.f_code, frame.f_lasti)
        return inside

    def enter(frame: FrameType, _event: str, _: Any) -> Any:
        if frame.f_code != only if only else frame.f_code.co_filename.startswith(TESTS):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return inside

    previous, collects = sys.gettrace(), gc.isenabled()
    gc.disable()
    sys.settrace(enter)
    try:
        call()
    finally:
        sys.settrace(previous)
        if collects:
            gc.enable()


@cache
def leaving(code: CodeType) -> frozenset[int]:
    """The bytecodes that call an __exit__ with three times None, where nothing has been raised; and NOPs."""
    steps = [i for i in dis.get_instructions(code) if i.opname not in ("CACHE", "PRECALL")]
    found = {i.offset for i in steps if i.opname == "NOP"}
    for k in range(len(steps) - 3):
        *loads, call = steps[k : k + 4]
        if all(i.opname == "LOAD_CONST" and i.argval is None for i in loads) and call.opname == "CALL":
            before = steps[k - 1 : k] if steps[k - 1].opname == "SWAP" else []
            found.update(range((before or loads)[0].offset, call.offset + 1))
    return frozenset(found)


def places(call: Callable[[], Any], of_each: int) -> list[Spot]:
    """Where to interrupt: at each bytecode the first time it runs, the last, and halfway between.

    of_each  how many of them are tried in each function
    """
    runs: dict[CodeType, dict[int, list[int]]] = {}  # when each bytecode ran, as numbers of all that ran
    counted = 0

    def visit(code: CodeType, offset: int) -> None:
        nonlocal counted
        if offset not in leaving(code):
            runs.setdefault(code, {}).setdefault(offset, []).append(counted)
        counted += 1

    trace(call, visit)
    found: dict[int, Spot] = {}
    for code, offsets in runs.items():
        every = {
            times[run]: Spot(code, offset, run)
            for offset, times in offsets.items()
            for run in (0, len(times) // 2, len(times) - 1)
        }
        when = sorted(every)
        n = len(when) if os.environ.get("FASTUPDATE_TEST_BYTECODES") == "all" else min(of_each, len(when))
        found |= {at: every[at] for at in (when[(2 * k + 1) * len(when) // (2 * n)] for k in range(n))}
    assert found, "nothing was traced, so nothing would be interrupted"
    return [spot for _, spot in sorted(found.items())]


def interrupted(call: Callable[[], Any], spot: Spot) -> str | None:
    """call() with an InterruptError at this bytecode: where that was, None if it came to nothing."""
    runs = 0

    def due(_: CodeType, offset: int) -> bool:
        nonlocal runs
        runs += offset == spot.offset
        return runs > spot.run

    return _interrupted(call, due, spot.code)


def interrupted_after(call: Callable[[], Any], count: int) -> str | None:
    """call() with an InterruptError after so many bytecodes: where that was, None if it came to nothing."""
    remaining = count

    def due(code: CodeType, offset: int) -> bool:
        nonlocal remaining
        remaining -= 1
        return remaining < 0 and offset not in leaving(code)

    return _interrupted(call, due, None)


def _interrupted(call: Callable[[], Any], due: Callable[[CodeType, int], bool], only: CodeType | None) -> str | None:
    where = None

    def visit(code: CodeType, offset: int) -> None:
        nonlocal where
        if where is None and due(code, offset):
            line = next(line for begin, end, line in code.co_lines() if begin <= offset < end)
            where = f"{os.path.relpath(code.co_filename)}:{line} in {code.co_qualname}, byte {offset}"
            raise InterruptError

    try:
        trace(call, visit, only)
    except InterruptError:
        return where
    return None


def outcomes(
    make: Callable[[], Any],
    call: Callable[[Any], Any],
    look: Callable[[Any], Any],
    again: Callable[[Any], Any],
    of_each: int = 1,
) -> Iterator[str]:
    """What is wrong after interrupts at many places of call(make()).

    look   what an object is: it must then be as before the call or as after it
    again  calls that must work afterwards, with the result that they have in that case
    """
    before, after = make(), make()
    call(after)
    states = [look(before), look(after)]
    for untouched in (before, after):
        again(untouched)
    further = [look(before), look(after)]
    whole, interrupts = make(), 0
    for spot in places(lambda: call(whole), of_each):
        subject = make()
        where = interrupted(lambda subject=subject: call(subject), spot)
        if where is None:
            continue
        interrupts += 1
        try:
            state = look(subject)
            if state not in states:
                yield f"half done: {where}"
                continue
            again(subject)
        except Exception as error:
            yield f"{error!r} afterwards: {where}"
            continue
        if look(subject) != further[states.index(state)]:
            yield f"other results afterwards: {where}"
    if not interrupts:
        yield "nothing was interrupted"
