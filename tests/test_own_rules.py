"""Rules of one's own: the bits of a built-in of the same text, the tutorial's code, and what is wrong with a class."""

from __future__ import annotations

import inspect
import json
import os
import pickle
import re
import runpy
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from cases import (
    CASES,
    DTYPES,
    MIXED_OPTIONS,
    PHASED,
    RULE_NAMES,
    RULES,
    SUM_OPTIONS,
    arrays_of,
    assert_same_bits,
    by_dtype,
    by_name,
    in_one_type,
    isas,
    random_arrays,
)

import fastupdate as fu
from fastupdate.engines import choose
from fastupdate.rules import emit
from fastupdate.rules.adam import Adam, direction
from fastupdate.rules.adamw import AdamW
from fastupdate.rules.momentum import Momentum
from fastupdate.rules.rmsprop import RMSprop
from fastupdate.rules.rule import NON_NEGATIVE, Flag, Hyper, State, Sum, scalars
from fastupdate.rules.sgd import SGD

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "own_rules.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
pytestmark = pytest.mark.skipif(choose.numba_problem() is not None, reason=f"{choose.numba_problem()}")


@fu.rule
class OwnSGD(SGD):
    """The text of a built-in."""


@fu.rule
class OwnMomentum(Momentum):
    """The text of a built-in."""


@fu.rule
class OwnRMSprop(RMSprop):
    """The text of a built-in."""


@fu.rule
class OwnAdam(Adam):
    """The text of a built-in."""


@fu.rule
class OwnAdamW(AdamW):
    """The text of a built-in."""


OWN = {cls.rule.name.removeprefix("own"): cls for cls in (OwnSGD, OwnMomentum, OwnRMSprop, OwnAdam, OwnAdamW)}
SIZES = [0, 1, 7, 127, 129, 1025, 5003, 200_003]  # the last wakes every thread
OPTIONS = {
    "plain": {},
    "norms": {"clip_norm": 30.0, "nonfinite": "skip", "monitor": True},
    **MIXED_OPTIONS,
    **SUM_OPTIONS,
    "groups": {"groups": [{"params": "[0-3]", "lr": lambda step: 0.01 / (step + 1)}, {"params": "4", "lr_scale": 0.5}]},
}


def test_every_built_in_has_a_double():
    assert set(OWN) == {case.rule for case in CASES}


@pytest.mark.skipif(not isas(), reason=f"no native module: {choose.native_problem()}")
@pytest.mark.parametrize(("case", "dtype"), [(c, t) for c in CASES for t in DTYPES if in_one_type(c, t)], ids=by_name)
def test_the_bits_of_a_built_in(case, dtype):
    """In the native engine, under every kind of option, on one thread and several, over a checkpoint."""
    for name, options in OPTIONS.items():
        left = []
        for cls, threads in ((fu.rules.get(case.rule), 1), (OWN[case.rule], 1), (OWN[case.rule], 3)):
            fu.set_num_threads(threads)
            params = random_arrays(1, SIZES, dtype)
            opt = cls(params, **case.kwargs, **options)
            reports = [opt.step(random_arrays(2, SIZES, dtype))]
            again = cls(params, **case.kwargs, **options)
            again.load_state_dict(opt.state_dict())
            reports += [again.step(random_arrays(3 + k, SIZES, dtype)) for k in range(2)]
            left.append((repr(reports), arrays_of(again)))
        (expected, arrays), *others = left
        for reports, theirs in others:
            assert reports == expected, name
            for kind in arrays:
                assert_same_bits(theirs[kind], arrays[kind], f"{name} {kind}")


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("t", [1, 2, 3, 10, 1000, 10**6, 2**40], ids=str)
def test_scalars_of_a_step(name, t):
    """What Numba makes of `prepare` is Python's to the last bit."""
    case = next(case for case in CASES if case.rule == name)
    left = []
    for cls in (fu.rules.get(name), OWN[name]):
        p = np.linspace(-3, 3, 64)
        opt = cls([p], **case.kwargs)
        opt.start_at(t)
        opt.step([np.cos(np.arange(64.0))])
        left.append(p)
    assert_same_bits(left[1], left[0], name)


def test_a_class_like_any_other(tmp_path):
    assert OwnAdamW.__module__ == __name__
    assert pickle.loads(pickle.dumps(OwnAdamW)) is OwnAdamW
    assert list(inspect.signature(OwnAdamW).parameters) == list(inspect.signature(fu.AdamW).parameters)
    assert "ownadamw" not in fu.rules.names()

    class Warm(OwnAdamW):
        def __init__(self, params, **options):
            super().__init__(params, lr=0.5, **options)

    assert Warm([np.zeros(3)]).groups[0]["lr"] == 0.5


def test_the_page(tmp_path, capsys):
    """Its code is a rule that learns what it says."""
    (tmp_path / "page.py").write_text("\n".join(BLOCKS), encoding="utf-8")
    runpy.run_path(str(tmp_path / "page.py"))
    printed = capsys.readouterr().out
    found = np.array(re.findall(r"-?\d+\.\d*", printed), float)
    assert np.abs(found[:9] - [*range(8), 1]).max() < 0.1, printed
    assert np.array_equal(found[9:], [0.25, 0.5, 0.75, 1.0, 0.894, 0.5]), printed


@pytest.mark.skipif(not isas(), reason=f"no native module: {choose.native_problem()}")
def test_the_table_of_speed(tmp_path, capsys, monkeypatch):
    """It runs, and the bytes are those of the built-ins; how fast is for whoever runs it."""
    monkeypatch.syspath_prepend(ROOT)  # `bench` is no part of the package
    from bench import own_rules

    written = tmp_path / "own_rules.json"
    own_rules.main(["--quick", "--json", str(written)])
    assert [row["recipe"] for row in json.loads(written.read_text())["rows"]] == ["AdamW", "LAMB"]
    assert capsys.readouterr().out.count("one tensor of 64") == 2


def test_contributing_it(tmp_path):
    """A rule is one file: a copy of the tree, of few rules, with the page's in it builds, tests and documents it."""
    missing = [tool for tool in ("cmake", "ninja", "c++") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    others = [f"{name}.py" for name in RULE_NAMES if name not in (*RULES, *PHASED)]
    ignored = shutil.ignore_patterns("*.pyc", "*.tmp.*", "*.so", *others)  # Numba's machine code comes along
    for folder in ("cmake", "csrc", "docs", "fastupdate", "scripts", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    moved = BLOCKS[0].replace("import fastupdate as fu\n", "").replace("@fu.rule\n", "").replace("Lion", "Lioness")
    (tmp_path / "fastupdate/rules/lioness.py").write_text(moved, encoding="utf-8")
    shutil.copy(ROOT / "scripts/first_on_path.py", tmp_path / "sitecustomize.py")

    def run(*command):
        paths = [tmp_path, tmp_path / "tests", *sys.path]
        own = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "FASTUPDATE_TEST_BACKENDS": "numba"}
        done = subprocess.run(
            list(map(str, command)), cwd=tmp_path, env=os.environ | own, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("cmake", "-S", "tests/cross", "-B", "tree", "-G", "Ninja", f"-DPython_EXECUTABLE={sys.executable}")
    run("cmake", "--build", "tree", "--target", "CMakeFiles/cpu_v2.dir/generated/lioness.cpp.o")
    assert "FASTUPDATE_ENTRY(lioness)" in (tmp_path / "tree/generated/rules.inc").read_text()
    file = tmp_path / "fastupdate/rules/lioness.py"
    file.write_text(moved.replace("-s.lr * (sign", "-s.lr * (2.0 * sign"))
    run("cmake", "--build", "tree", "--target", "CMakeFiles/cpu_v2.dir/generated/lioness.cpp.o")
    assert "T(2.0) * sign(c)" in (tmp_path / "tree/generated/rules/lioness.h").read_text()

    look = """
        import fastupdate as fu, numpy as np, cases
        p = np.ones(3)
        fu.Lioness([p], lr=0.25, backend="numba").step([np.array([1.0, -1.0, 0.0])])
        print(fu.functional.lioness.__name__, p, [str(c) for c in cases.EVERY_CASE if c.rule == "lioness"])
    """
    assert run(sys.executable, "-c", textwrap.dedent(look)) == "lioness [0.5 1.5 1. ] ['lioness-plain']\n"
    for script, page, text in (
        ("rules_page.py", "docs/rules.md", "## Lioness\n"),
        ("stub.py", "fastupdate/optimizers.pyi", "class Lioness(Optimizer):\n"),
    ):
        run(sys.executable, f"scripts/{script}")
        assert text in (tmp_path / page).read_text(encoding="utf-8")
    assert "struct lioness {" in run(sys.executable, "-m", "fastupdate", "rule", "lioness", "--cpp")


# -- what is wrong with a class ---------------------------------------------------------------------------------------


class Bare:
    """Source: none."""

    lr = Hyper(0.1, NON_NEGATIVE, "learning rate")

    @staticmethod
    def prepare(h, t):
        return scalars(lr=h.lr)

    @staticmethod
    def update(flags, s, g, p):
        return (-s.lr * g,)


def many(kind, count):
    return {f"x{k}": kind for k in range(count)}


def unbound(self, flags):
    return flags


def enclosed():
    step = direction

    @staticmethod
    def update(flags, s, g, p):
        return step(flags, s, g, p, p, p)

    return update


def more_scalars(h, t):
    return scalars(**{f"x{k}": h.lr for k in range(17)})


def five_sums():
    """A rule that measures once, and then has as many sums as a phase has no room for."""

    @staticmethod
    def measure_all(flags, s, g, p, norm):
        return g, g, g, g, g

    @staticmethod
    def settle_tensor(flags, s, n, x0, x1, x2, x3, x4, norm):
        return x0

    @staticmethod
    def update(flags, s, g, p, norm):
        return (-s.lr * norm,)

    functions = {"measure_all": measure_all, "settle_tensor": settle_tensor, "update": update}
    return {**many(Sum("", per="tensor", of="measure_all"), 5), "norm": State("", per="tensor"), **functions}


WRONG = {  # what is put into the class, the message
    "no lr": ({"lr": None}, r"\[wrong\] lr: expected a Hyper, a Flag, .*received another attribute"),
    "unknown attribute": ({"decay": 0.1}, r"\[wrong\] decay: expected a Hyper, a Flag, a State or one of check, deco"),
    "a method": ({"update": unbound}, r"\[wrong\] update: expected a @staticmethod, received none"),
    "other arguments": ({"m": State("mean")}, r"update: expected the arguments \(flags, s, g, p, m\), received"),
    "a state of no flag": ({"m": State("mean", when="big")}, r"\[wrong\] update: expected the arguments"),
    "a flag of no hyperparameter": ({"big": Flag("", when="x")}, r"big: expected `when` to name a hyperparameter"),
    "variables around it": ({"update": enclosed()}, "update: expected helpers at the top of the file, received step"),
    "too many hyperparameters": (many(Hyper(0.1, NON_NEGATIVE, ""), 16), "hyperparameters: expected at most 16"),
    "too many scalars": ({"prepare": staticmethod(more_scalars)}, "scalars: expected at most 16, received 17"),
    "too many sums": (five_sums(), "sums of measure_all: expected at most 4, received 5"),
}


@pytest.mark.parametrize(("parts", "message"), WRONG.values(), ids=WRONG)
def test_wrong_classes(parts, message, monkeypatch):
    monkeypatch.setattr("fastupdate.optimizers.findsource", lambda formula: (_ for _ in ()).throw(OSError))
    with pytest.raises(TypeError, match=message):
        fu.rule(type("Wrong", (Bare,), parts))


def test_file_and_line():
    """What has no place in a rule is named where it stands, when the class is made."""

    class Loops(Bare):
        @staticmethod
        def update(flags, s, g, p):
            for _ in range(3):
                g = g * 0.5
            return (-s.lr * g,)

    with pytest.raises(emit.RefusedError, match=r"test_own_rules\.py:(\d+): a loop has no place in a rule: for _") as e:
        fu.rule(Loops)
    line = int(re.search(r":(\d+): ", str(e.value))[1])
    assert "for _ in range(3)" in Path(__file__).read_text().splitlines()[line - 1]


@by_dtype
@pytest.mark.parametrize("backend", ["native", "numba"])
def test_without_states(backend, dtype):
    """A rule of one scalar and nothing else."""
    p, g = random_arrays(1, [1000, 1000], dtype)
    expected = p + -dtype(0.1) * g
    fu.rule(Bare)([p], backend=backend).step([g])
    assert_same_bits(p, expected, backend)


def test_one_value_is_a_tuple():
    class Plain(Bare):
        @staticmethod
        def update(flags, s, g, p):
            return -s.lr * g

    with pytest.raises(emit.RefusedError, match=r"expected \(the change of p, \): return -s\.lr \* g"):
        fu.rule(Plain)


def test_without_numba(monkeypatch):
    monkeypatch.setattr(choose, "numba_problem", lambda: "Numba is not installed")
    for backend in (None, "native"):
        with pytest.raises(RuntimeError, match=r"^\[ownadam\] .*Numba is not installed"):
            OwnAdam([np.zeros(3)], backend=backend)
