"""Machine code is used again by later processes, and only for what is made of the same."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import textwrap
from typing import Any

import numpy as np
import pytest

from fastupdate import rules
from fastupdate.engines import choose
from fastupdate.rules.rule import scalars

pytest.importorskip("numba", reason="numba is not installed")

from fastupdate.engines.python import compiling, formula, loops
from fastupdate.engines.python.formula import compile_formula

RULE = """
    import sys
    import numpy as np
    import fastupdate as fu
    from numba.core import event
    from fastupdate.rules.rule import NON_NEGATIVE, Hyper, scalars

    def part(g):
        return {factor} * g

    @fu.rule
    class Mine:
        "Source: none."

        lr = Hyper(0.25, NON_NEGATIVE, "")

        @staticmethod
        def prepare(h, t):
            return scalars(lr=h.lr)

        @staticmethod
        def update(flags, s, g, p):
            return (-s.lr * part(g),)

    with event.install_recorder("numba:run_pass") as compiled:
        for backend in {backends}:
            p = np.ones(3, np.float32)
            Mine([p], backend=backend).step([np.ones(3, np.float32)])
            print(p[0], end=" ")
    print(len(compiled.buffer) > 0)
"""


def test_a_later_process_compiles_what_has_changed_and_nothing_else(tmp_path: Any) -> None:
    backends = [name for name in ("numba", "native") if not choose.PROBLEMS[name]()]

    def process(factor: float) -> list[str]:
        """A rule of one's own in a file."""
        file = tmp_path / "mine.py"
        file.write_text(textwrap.dedent(RULE.format(backends=backends, factor=factor)), encoding="utf-8")
        paths = os.pathsep.join(filter(None, sys.path))
        own = {"PYTHONPATH": paths, "PYTHONHASHSEED": "random"}
        done = subprocess.run([sys.executable, file], env=os.environ | own, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    *first, _ = process(0.5)  # the engine's own functions may be kept by now, or not
    assert process(0.5) == [*first, "False"] == [*["0.875"] * len(backends), "False"]
    new = 1 + secrets.randbelow(2**16) / 2**16  # what an earlier run of this test compiled is kept, too
    assert process(new) == [*[str(np.float32(1 - new / 4))] * len(backends), "True"]


def helper(x: Any) -> Any:
    return x * 0.5


def other(x: Any) -> Any:
    return x * 0.25


def calls(flags: Any, s: Any, g: Any) -> Any:
    return helper(g) if flags else s.lr * g


def made_of(**scope: Any) -> str:
    """What a function says of itself that calls `calls`, where these names stand for something else."""
    changed = type(calls)(calls.__code__, {**globals(), **scope}, "calls")
    scope = {
        "flags": (True,),
        "Scalars": type(scalars(lr=1.0)),
        **scope,
        "calls": compile_formula(changed, np.dtype("f4")),
    }
    loop = compiling.defined("def loop(g):\n    return calls(flags, Scalars(0.5), g)\n", scope)["loop"]
    return compiling.described(loop)


@pytest.mark.parametrize(
    "scope",
    [{"helper": other}, {"flags": (False,)}, {"Scalars": type(scalars(rate=1.0))}, {"helper": lambda x: x}],
    ids=["helper", "flags", "scalars", "lambda"],
)
def test_every_part_of_a_function_is_told_apart(scope: dict[str, Any]) -> None:
    assert made_of() == made_of()
    assert made_of(**scope) != made_of()


@pytest.mark.parametrize("name", rules.names())
def test_what_loops_are_made_of_is_said_without_addresses(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would be others in the next process, and nothing be used again; types and rules show."""
    monkeypatch.setattr(formula, "c_function", lambda signature, function: compiling.described(function))
    rule = rules.get(name).rule
    texts = [loops.rule_loop.__wrapped__(formula.CPU, rule, 0, np.dtype(t)) for t in ("f4", "f8")]
    assert " at 0x" not in "".join(texts)
