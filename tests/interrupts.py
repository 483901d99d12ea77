"""An exception at any bytecode of a call: what a signal handler may do to a program, done at every place in turn.

Left out are NOPs, and the few bytecodes from the end of a `with` block to the call of its __exit__: no handler runs
there, and the compiler leaves them outside of the block.
FASTUPDATE_TEST_BYTECODES=all tries every place; without it, a few in each function.
"""

from __future__ import annotations

import dis
import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from types import CodeType, FrameType
from typing import Any

TESTS = os.path.dirname(__file__)


class InterruptError(BaseException):
    """What the handler raises: no KeyboardInterrupt, and no Exception."""


def trace(call: Callable[[], Any], visit: Callable[[CodeType, int], None]) -> None:
    """call(), with visit(code, offset) before each bytecode of what it calls outside the tests."""

    def inside(frame: FrameType, event: str, _: Any) -> Any:
        if event == "opcode":
            visit(frame.f_code, frame.f_lasti)
        return inside

    def enter(frame: FrameType, _event: str, _: Any) -> Any:
        if frame.f_code.co_filename.startswith(TESTS):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return inside

    previous = sys.gettrace()
    sys.settrace(enter)
    try:
        call()
    finally:
        sys.settrace(previous)


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


def places(call: Callable[[], Any], of_each: int) -> list[int]:
    """When to interrupt, as numbers of bytecodes: each bytecode the first time it runs, the last, and halfway between.

    of_each  how many of them are tried in each function
    """
    times: dict[CodeType, dict[int, list[int]]] = {}
    counted = 0

    def visit(code: CodeType, offset: int) -> None:
        nonlocal counted
        if offset not in leaving(code):
            times.setdefault(code, {}).setdefault(offset, []).append(counted)
        counted += 1

    trace(call, visit)
    found: set[int] = set()
    for runs in times.values():
        every = sorted({at for each in runs.values() for at in (each[0], each[len(each) // 2], each[-1])})
        n = len(every) if os.environ.get("FASTUPDATE_TEST_BYTECODES") == "all" else min(of_each, len(every))
        found.update(every[(2 * k + 1) * len(every) // (2 * n)] for k in range(n))
    return sorted(found)


def interrupted(call: Callable[[], Any], at: int) -> str | None:
    """call() with an InterruptError before its bytecode number `at`: where that was, None if it came to nothing."""
    remaining, where = at, None

    def visit(code: CodeType, offset: int) -> None:
        nonlocal remaining, where
        remaining -= 1
        if remaining < 0 and where is None and offset not in leaving(code):
            line = next(line for begin, end, line in code.co_lines() if begin <= offset < end)
            where = f"{os.path.relpath(code.co_filename)}:{line} in {code.co_qualname}, byte {offset}"
            raise InterruptError

    try:
        trace(call, visit)
    except InterruptError:
        return where
    return None


def outcomes(
    make: Callable[[], Any],
    call: Callable[[Any], Any],
    look: Callable[[Any], Any],
    again: Callable[[Any], Any],
    of_each: int = 4,
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
    whole = make()
    for at in places(lambda: call(whole), of_each):
        subject = make()
        where = interrupted(lambda subject=subject: call(subject), at)
        if where is None:
            continue
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
