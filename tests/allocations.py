"""The n-th allocation fails, for every n: MemoryError or success, and nothing that is half done.

    python allocations.py python|malloc [CALL [EVERY]]

What fails is CPython's own allocation (python) or the C library's (malloc), which the shared library of allocations.c
in LD_PRELOAD makes fail. Every EVERY-th is tried, in a process of its own each time. Prints how many failed and, if
something was wrong, what.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fastupdate as fu
from fastupdate.arrays.containers import Containers

ENOUGH = 12  # successes in a row: there are no more allocations
TOO_MANY = 500  # wrong ones: nothing more is to be learned, and a call that always crashes has no successes


def arrays(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "w": rng.standard_normal((30, 20)).astype(np.float32).T,
        "b": rng.standard_normal(7),
        "c": rng.standard_normal(1500).astype(np.float32),
    }


def make(**options: Any) -> fu.Optimizer:
    opt = fu.AdamW(arrays(0), lr=0.1, groups=[{"params": "b", "eps": 1e-3}], **options)
    opt.step(arrays(1))
    return opt


FULL: dict[str, Any] = {
    "ema_decay": 0.5,
    "shadow": "bfloat16",
    "lookahead": (2, 0.5),
    "monitor": True,
    "clip_norm": 1.0,
}
GRADS = arrays(2)
FILE = Path(tempfile.gettempdir()) / f"allocations-{os.getpid()}"


def bound() -> fu.Optimizer:
    opt = make()
    opt.bind(GRADS)
    opt.step()
    return opt


def accumulated() -> fu.Optimizer:
    opt = make()
    opt.accumulate(GRADS)
    return opt


OTHER = make(**FULL).state_dict()


def lend(opt: fu.Optimizer) -> None:
    with opt.ema_weights():
        pass


Case = tuple[Callable[[], Any], Callable[[Any], Any]]
CALLS: dict[str, Case] = {
    "construct": (lambda: arrays(0), lambda params: fu.AdamW(params, lr=0.1, **FULL)),
    "form": (lambda: arrays(0), Containers),
    "step": (make, lambda opt: opt.step(GRADS)),
    "scaled step": (make, lambda opt: opt.step(GRADS, loss_scale=2.0)),
    "step with options": (lambda: make(**FULL), lambda opt: opt.step(GRADS)),
    "bound step": (bound, lambda opt: opt.step()),
    "bind": (make, lambda opt: opt.bind(GRADS)),
    "accumulate": (make, lambda opt: opt.accumulate(GRADS)),
    "accumulated step": (accumulated, lambda opt: opt.step()),
    "functional": (lambda: arrays(0), lambda p: fu.functional.sgd([*p.values()], [*GRADS.values()], step=1)),
    "state_dict": (lambda: make(**FULL), lambda opt: opt.state_dict()),
    "load_state_dict": (lambda: make(**FULL), lambda opt: opt.load_state_dict(OTHER)),
    "freeze": (lambda: make(**FULL), lambda opt: opt.freeze("w")),
    "ema_weights": (lambda: make(**FULL), lend),
    "resync": (lambda: make(**FULL), lambda opt: opt.resync()),
    "set betas": (make, lambda opt: opt.groups[0].__setitem__("betas", (0.5, 0.75))),
    "schedule": (make, lambda opt: setattr(opt, "lr", fu.schedules.constant(0.5))),
    "save": (lambda: make(**FULL), lambda opt: opt.save(FILE)),
    "load": (lambda: FILE, fu.load),
}


def look(x: Any) -> Any:
    """All bytes of a subject."""
    if isinstance(x, Path):
        return x.read_bytes()
    if isinstance(x, fu.Optimizer):
        state = x.state_dict()
        kept = {name: a.tobytes() for name, a in state.pop("arrays").items()}
        return repr(state), kept, look(x.params)
    return {name: a.tobytes() for name, a in x.items()}


def again(x: Any) -> None:
    if isinstance(x, fu.Optimizer):
        x.discard()
        x.step(GRADS)


def failing(which: str) -> tuple[Callable[[int], None], Callable[[], bool]]:
    """Functions: from now on the n-th allocation fails; no longer, and whether one has."""
    if which == "python":
        import _testcapi

        def end() -> bool:
            _testcapi.remove_mem_hooks()
            return False  # nobody tells whether one has

        return lambda n: _testcapi.set_nomemory(n, n + 1), end
    library = ctypes.PyDLL(None)

    def over() -> bool:
        while True:
            try:  # calling it allocates too
                return bool(library.allocation_failed())
            except MemoryError:
                continue

    return library.fail_allocation, over


HALF_DONE, OTHER_RESULTS, SUCCEEDED, RAISED, RAISED_ANOTHER = range(10, 15)  # exit statuses of a child
WORDS = {HALF_DONE: "half done", OTHER_RESULTS: "other results afterwards"}


def attempt(prepare: Any, call: Any, n: int, begin: Any, end: Any, states: list[Any], further: list[Any]) -> int:
    """What comes of the call if allocation n fails."""
    subject, outcome = prepare(), SUCCEEDED
    try:
        begin(n)
        call(subject)
    except MemoryError:
        outcome = RAISED
    except BaseException:  # NumPy raises others too
        outcome = RAISED_ANOTHER
    if end() and outcome == SUCCEEDED:
        outcome = RAISED  # it was done all the same
    state = look(subject)
    if state not in states:
        return HALF_DONE
    again(subject)
    return outcome if look(subject) == further[states.index(state)] else OTHER_RESULTS


def in_a_child(*arguments: Any) -> int:
    """The same in a process of its own, for it may crash; then the status is that of the signal, negative."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = attempt(*arguments)
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(which: str, name: str, every: int = 1) -> int:
    sys.unraisablehook = lambda _: None
    prepare, call = CALLS[name]
    if name == "load":
        make(**FULL).save(FILE)
    before, after = prepare(), prepare()
    for _ in range(2):  # what is imported and kept at the first call is there
        call(prepare())
    call(after)
    states = [look(before), look(after)]
    for x in (before, after):
        again(x)
    further = [look(before), look(after)]
    begin, end = failing(which)
    counts: Counter[int] = Counter()
    wrong: list[str] = []
    n = succeeded = 0
    while succeeded < ENOUGH and len(wrong) < TOO_MANY:
        status = in_a_child(prepare, call, n, begin, end, states, further)
        succeeded = succeeded + 1 if status == SUCCEEDED else 0
        counts[status] += 1
        if status not in (SUCCEEDED, RAISED, RAISED_ANOTHER):
            wrong.append(f"{n}: {WORDS.get(status, f'exit status {status}')}")
        n += every
    FILE.unlink(missing_ok=True)
    raised, another = counts[RAISED], counts[RAISED_ANOTHER]
    print(f"{name:<18}{which:<8}{raised:>6} failed{another:>5} raised another error{len(wrong):>4} wrong", flush=True)
    print("\n".join(wrong[:20]), end="\n" if wrong else "")
    return bool(wrong)


def every_call(which: str) -> int:
    """The same for all calls, each in a process of its own; the reader of safetensors ends it where malloc fails."""
    names = [name for name in CALLS if (which, name) != ("malloc", "load")]
    return max(subprocess.run([sys.executable, __file__, which, name], check=False).returncode for name in names)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        sys.exit(every_call(sys.argv[1]))
    sys.exit(main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])))
