"""The emitter: what it makes of a rule's text, and what it has no place for."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cases import random_arrays

import fastupdate as fu
from fastupdate import cli, rules
from fastupdate.rules import emit
from fastupdate.rules.emit.stage import emit_stages

ROOT = Path(__file__).resolve().parents[1]

# What a rule may be written with; {…} are the places where the tables below put something else.
RULE = """
from fastupdate.rules.rule import NON_NEGATIVE, Flag, Hyper, State, scalars
from fastupdate.rules.scalar import absolute, maximum, positive_part, sign, sqrt, where
{imports}

def blend(s, old, now):
    return old + s.rest * (now - old)

def turn(flags, s, g, m, v):
    v = blend(s, v, g * g)
    if flags.pure and not flags.bold:
        m = blend(s, m, sign(g))
    else:
        m = blend(s, m, g)  # a plain mean
    return m / (sqrt(v) + s.eps), m, v
{functions}

class Sample:
    '''A rule that uses all there is. Source: none.'''

    lr = Hyper(0.1, NON_NEGATIVE, "learning rate")
    beta = Hyper(0.9, NON_NEGATIVE, "memory")
    pure = Flag("take signs")
    bold = Flag("leap")
    m = State("mean")
    v = State("mean of squares")
    last = State("the gradient before", when="bold")
    {fields}

    @staticmethod
    def prepare(h, t):
        memory = h.beta if t > 2 else h.beta * (1 - 1 / (t + 1))
        {prepare}
        return scalars(lr=h.lr, rest=1 - memory, eps=1e-3, fade=0.95**t, root=sqrt(t))

    @staticmethod
    def update(flags, s, g, p, m, v, last):
        {update}
        step, m, v = turn(flags, s, g, m, v)
        if flags.bold:
            step = step * where(g * last > 0.0, s.root, 0.5) - (last - step)
            last = g
        near = maximum(absolute(p), positive_part(0.25 - p)) * s.fade
        return -s.lr * (step + where(near < 1.5, near, 1.5) - 0.1 * p) / (1.0 + near), m, v, last
"""
PLACES = ("imports", "functions", "fields", "prepare", "update")


def sample(**places: str) -> str:
    text = RULE
    for place in PLACES:
        text = text.replace("{" + place + "}", places.get(place, ""))
    return text


def emitted(text: str) -> str:
    return emit.emit(Path("sample.py"), "Sample", text)


REFUSED = {  # place, what is put there, the reason
    "a loop": ("update", "for k in range(3): g = g + 1.0", "a loop has no place"),
    "while": ("update", "while g > 0.0: g = g - 1.0", "a loop has no place"),
    "comprehension": ("update", "x = [g for k in p]", "a loop has no place"),
    "unknown function": ("update", "g = exp(g)", "exp is no function for rules; there are absolute, .*where, blend"),
    "method": ("update", "g = g.sum()", "this has no place"),
    "numpy": ("update", "g = np.sqrt(g)", "this has no place"),
    "string": ("update", "g = 'x'", "'x' has no place"),
    "truth": ("update", "g = True", "True has no place"),
    "infinity": ("update", "g = maximum(g, 1e999)", "inf has no place"),
    "integer": ("update", "g = 2 * g", r"write 2\.0"),
    "chained comparison": ("update", "g = where(0.0 < g < 1.0, g, 1.0)", "one comparison of two numbers"),
    "comparison as a number": ("update", "g = g * (g > 0.0)", "a comparison outside where"),
    "two literals to choose from": ("update", "g = g * where(g > 0.0, 1.0, 2.0)", "two literals"),
    "literal arithmetic": ("update", "g = g * (2.0 / 3.0)", "in float64: write the result"),
    "a number decides": ("update", "g = g if g > 0.0 else p", r"only flags decide here \(pure, bold\)"),
    "a number decides a branch": ("update", "if g > 0.0: g = p", "only flags decide here"),
    "unknown flag": ("update", "g = g if flags.brave else p", "only flags decide here"),
    "power": ("update", "g = g**3.0", "a power has its place in prepare"),
    "augmented": ("update", "m += g", "writing into what the caller holds"),
    "augmented attribute": ("update", "s.lr *= 2.0", "writing into what the caller holds"),
    "attribute set": ("update", "s.lr = g", "this has no place"),
    "unknown scalar": ("update", "g = s.beta * g", "s has no beta; it has lr, rest, eps, fade, root"),
    "unknown name": ("update", "g = g * gravity", "gravity has no value here"),
    "first set in a branch": ("update", "if flags.bold: x = g\n        g = x", "x has no value here"),
    "word of C++": ("update", "new = g", "new means something else in C[+][+]"),
    "a flag's name": ("update", "bold = g", "bold means something else in C[+][+]"),
    "index": ("update", "g = m[0]", "an index has no place"),
    "lambda": ("update", "f = lambda x: x", "a lambda has no place"),
    "two returns": ("update", "if flags.bold: return g, m, v, last", "a return before the end"),
    "results elsewhere": ("update", "step, v, m = turn(flags, s, g, m, v)", r"expected …, m, v = turn\(…\)"),
    "results left out": ("update", "step = turn(flags, s, g, m, v)", r"expected …, m, v = turn"),
    "one result twice": ("update", "step, m, m = turn(flags, s, g, m, m)", r"expected …, m, v = turn"),
    "too few arguments": ("update", "g = blend(s, g)", r"expected blend\(s, old, now\)"),
    "exponential": ("update", "g = exp(g)", "exp is no function for rules"),
    "logarithm": ("update", "g = log(g)", "log is no function for rules"),
    "other scalars": ("update", "g = blend(p, g, g)", r"expected blend\(s, old, now\)"),
    "keywords": ("update", "g = maximum(g, b=p)", "this has no place"),
    "a helper without return": ("update", "g = quiet(g)", "quiet ends without a return"),
    "a helper that calls itself": ("update", "g = again(g)", "again calls itself"),
    "if in prepare": ("prepare", "if t == 1: memory = 0.0", r"an if \(write a if … else b\) has no place"),
    "unknown hyperparameter": ("prepare", "memory = h.alpha", "h has no alpha; it has lr, beta"),
    "square": ("prepare", "memory = h.beta**2", "products and roots"),
    "root": ("prepare", "memory = t**-0.5", "products and roots"),
    "power of two": ("prepare", "memory = 2**t", "products and roots"),
    "helper in prepare": ("prepare", "memory = blend(h, t, t)", "blend is no function for rules"),
    "helper of more than h": ("prepare", "memory = blend(h)", "blend is no function for rules"),
    "integer division": ("prepare", "memory = t // 2", "this has no place"),
    "a hyperparameter named h": ("fields", "h = Hyper(0.1, NON_NEGATIVE, '')", "h means something else"),
    "syntax": ("update", "g = = p", "invalid syntax"),
}  # fmt: skip
HELPERS = "def quiet(x):\n    y = x\n\ndef again(x):\n    return again(x)\n"


@pytest.mark.parametrize(("place", "text", "reason"), REFUSED.values(), ids=REFUSED)
def test_refused(place, text, reason):
    whole = sample(**{"functions": HELPERS, place: text})
    with pytest.raises(emit.RefusedError, match=reason) as caught:
        emitted(whole)
    line = int(re.match(r"sample\.py:(\d+): ", str(caught.value))[1])
    assert whole.splitlines()[line - 1].strip() in f"{text}\n{HELPERS}"


def test_what_a_function_of_hyperparameters_returns_stands_in_the_place_of_its_call():
    function = "def kept(h):\n    '''What stays.'''\n    return 1 - h.beta / 2\n"
    written = emitted(sample(functions=function, prepare="memory = h.beta * kept(h)"))
    assert "memory = h.beta * (1.0 - h.beta / 2.0);" in written


SUMMED = """
from fastupdate.rules.rule import NON_NEGATIVE, Hyper, State, Sum, scalars

class Sample:
    '''A rule with a sum. Source: none.'''

    lr = Hyper(0.1, NON_NEGATIVE, "learning rate")
    m = State("mean")
    norm = State("of the tensor", per="tensor")
    squares = Sum("of squares", per="tensor")

    @staticmethod
    def prepare(h, t):
        return scalars(lr=h.lr)

    @staticmethod
    def measure(flags, s, g, p, m, norm):
        return g * g, m

    @staticmethod
    def settle_tensor(flags, s, n, squares, norm):
        return squares / n

    @staticmethod
    def update(flags, s, g, p, m, norm):
        return -s.lr * g * norm, m
"""
CALLED = {  # what the rule calls so, by which the C++ of its phases goes; the line that says it
    "state as sum": ("norm", "sum", 17),
    "sum as sum": ("squares", "sum", 21),
    "state as state": ("norm", "state", 17),
    "element as term0": ("m", "term0", 17),
    "element as result0": ("m", "result0", 17),
}


@pytest.mark.parametrize(("old", "new", "line"), CALLED.values(), ids=CALLED)
def test_names_of_phases(old, new, line):
    emitted(SUMMED)
    with pytest.raises(emit.RefusedError, match=rf"^sample\.py:{line}: {new} means something else in C[+][+]"):
        emitted(re.sub(rf"\b{old}\b", new, SUMMED))


WITHOUT = {  # text of the sample, what it becomes, the reason
    "no prepare": ("def prepare", "def prepared", "expected a function prepare"),
    "no scalars": ("return scalars(", "return dict(", r"expected scalars\(name=value, …\)"),
    "scalars by position": ("scalars(lr=h.lr", "scalars(h.lr", r"expected scalars\(name=value, …\)"),
    "no return": ("        return -s.lr", "        x = -s.lr", "update ends without a return"),
    "states left out": ("+ near), m, v, last", "+ near), m, v", r"expected \(the change of p, m, v, last\)"),
    "states in another order": (
        "+ near), m, v, last",
        "+ near), v, m, last",
        r"expected \(the change of p, m, v, last\)",
    ),
    "states by value": ("+ near), m, v, last", "+ near), m + m, v, last", "returns arguments, by their names"),
    "a base that is no rule": ("class Sample:", "class Sample(dict):", "dict is no rule"),
}


@pytest.mark.parametrize(("old", "new", "reason"), WITHOUT.values(), ids=WITHOUT)
def test_incomplete(old, new, reason):
    assert sample().count(old) == 1
    with pytest.raises(emit.RefusedError, match=reason):
        emitted(sample().replace(old, new))


EXPRESSIONS = {  # Python, C++: only the parentheses that are needed, and each that is
    "g - (p - m)": "g - (p - m)",
    "(g - p) - m": "g - p - m",
    "g + (p + m)": "g + (p + m)",
    "g / (p * m)": "g / (p * m)",
    "g * p / m": "g * p / m",
    "(g + p) * m": "(g + p) * m",
    "-(g * p)": "-(g * p)",
    "-g * p": "-g * p",
    "- -g": "-(-g)",
    "0.1 - g": "T(0.1) - g",
    "-1e-8 * g": "-T(1e-08) * g",
    "(g if flags.bold else p) * m": "(bold ? g : p) * m",
    "g if flags.bold or flags.pure and not flags.bold else p": "(bold || (pure && !bold)) ? g : p",
    "where(g <= p, m, v)": "g <= p ? m : v",
    "where(g != 0.0, m, v) + where(g > p, m, v)": "(g != T(0.0) ? m : v) + (g > p ? m : v)",
    "cbrt(g)": "cube_root(g)",
    "sqrt(maximum(g, absolute(p)))": "square_root(maximum(g, absolute(p)))",
}


@pytest.mark.parametrize(("python", "cpp"), EXPRESSIONS.items(), ids=EXPRESSIONS)
def test_expressions(python, cpp):
    assert f"    T x = {cpp};\n" in emitted(sample(update=f"x = {python}"))


PROBE = """
#include <cstdio>
#include <cstring>
#include "sample.h"
using namespace fastupdate::host;
template <class T, unsigned mask> void steps(const char* name) {
  T x[5];
  FILE* in = std::fopen(name, "rb");
  while (std::fread(x, sizeof(T), 5, in) == 5) {
    T p = x[0], m = x[2], v = x[3], last = x[4];
    for (int t = 1; t < 5; ++t) p = p + sample<T, mask>({0.1, 0.9}, t)(x[1], p, m, v, last);
    T out[] = {p, m, v, last};
    std::fwrite(out, sizeof(T), 4, stdout);
  }
}
int main(int, char** names) { steps<REAL, MASK>(names[1]); }
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The sample as a rule of one's own, its file and its C++."""
    folder = tmp_path_factory.mktemp("sample")
    (folder / "sample_rule.py").write_text(sample().replace("class Sample", "@fu.rule\nclass Sample", 1).replace(
        "from fastupdate.rules.rule", "import fastupdate as fu\nfrom fastupdate.rules.rule", 1))  # fmt: skip
    (folder / "sample.h").write_text(emitted(sample()))
    (folder / "probe.cpp").write_text(PROBE)
    sys.path.insert(0, str(folder))
    try:
        import sample_rule
    finally:
        sys.path.pop(0)
    return folder, sample_rule.Sample


@pytest.mark.parametrize(("mask", "dtype"), [(0, np.float32), (1, np.float64), (2, np.float64), (3, np.float32)])
def test_the_same_bits_in_every_language(own, mask, dtype):
    """Four steps of the sample by its C++, by NumPy and by each engine, all from one text."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        pytest.skip("needs a C++ compiler")
    folder, cls = own
    rule = cls.rule
    kind = {np.float32: "float", np.float64: "double"}[dtype]
    program = folder / f"probe-{kind}-{mask}"
    options = ["-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Wshadow", "-Werror"]
    defined = [f"-DREAL={kind}", f"-DMASK={mask}"]
    (folder / "stages.h").write_text(emit_stages())
    include = [f"-I{ROOT / 'csrc'}", f"-I{folder}"]
    subprocess.run([compiler, *options, *defined, *include, folder / "probe.cpp", "-o", program], check=True)

    flags = {"pure": bool(mask & 1), "bold": bool(mask & 2)}
    p, g = random_arrays(1, [500, 500], dtype)
    start = [np.zeros(500, dtype) for _ in rule.states]
    np.stack([p, g, *start], axis=1).tofile(folder / "numbers")
    printed = subprocess.run([program, folder / "numbers"], capture_output=True, check=True).stdout
    expected = np.frombuffer(printed, dtype).reshape(500, 4).T

    q, states = p.copy(), start
    for t in range(1, 5):
        prepared = rule.prepare({"lr": 0.1, "beta": 0.9}, t)
        scalars = type(prepared)(*map(dtype, prepared))
        delta, *states = rule.update(rule.flag_tuple(flags), scalars, g, q, *states)
        q = q + delta
    kept = rule.kept(flags)
    for k, name in enumerate(("p", *rule.states)):
        if name == "p" or name in kept:
            assert np.array_equal([q, *states][k], expected[k]), name
    for backend in ("native", "numba"):
        r = p.copy()
        opt = cls([r], lr=0.1, beta=0.9, **flags, backend=backend)
        for _ in range(4):
            opt.step([g])
        assert np.array_equal(r, expected[0]), backend
        for name in kept:
            assert np.array_equal(opt.state[name][0], expected[1 + rule.states.index(name)]), (backend, name)


def test_emitted_text_says_where_it_comes_from():
    for name in fu.rules.names():
        lines = emit.emit(ROOT / "fastupdate" / "rules" / f"{name}.py").splitlines()
        assert lines[0] == f"// Emitted from fastupdate/rules/{name}.py: change that file, not this one."
    assert "  // rounding can take it below zero" in emit.emit(ROOT / "fastupdate" / "rules" / "rmsprop.py")


def test_alone(tmp_path):
    """It runs without the package and without NumPy, and writes only what has changed."""
    for folder in ("rules", "stages"):
        (tmp_path / folder).mkdir()
        for file in (ROOT / "fastupdate" / folder).glob("*.py"):
            shutil.copy(file, tmp_path / folder)
    shutil.copytree(ROOT / "fastupdate" / "rules" / "emit", tmp_path / "rules" / "emit")
    command = [sys.executable, "-I", "-S", tmp_path / "rules" / "emit", tmp_path / "out"]

    def run():
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout.split(), done.stderr

    assert run() == (0, fu.rules.names(), "")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*.h")}
    assert sorted(file.stem for file in before) == sorted([*fu.rules.names(), "stages"])
    adam = tmp_path / "rules" / "adam.py"
    adam.write_text(adam.read_text().replace("else m * s.correction1", "else -m * s.correction1"))
    assert run()[0] == 0
    changed = {file.name for file in before if file.stat().st_mtime_ns != before[file]}
    assert changed == {"adam.h", "adamw.h"}
    adam.write_text(adam.read_text().replace("else -m * s.correction1", "else m[0] * s.correction1"))
    status, printed, error = run()
    assert (status, printed) == (1, [])
    assert re.search(r"adam\.py:\d+: an index has no place in a rule: m_hat = m if .* else m\[0\]", error)


COMMANDS = {  # arguments, exit status, what is printed or said
    ("momentum",): (0, "class Momentum:"),
    ("adamw",): (0, "def direction(flags, s, g, m, v, v_max):"),
    ("sgdp",): (0, "class Projected:"),
    ("adamw", "--cpp"): (0, "struct adamw {"),
    ("adamm",): (2, f"no rule 'adamm', did you mean adam? there are {', '.join(rules.names()[:3])},"),
    ("zzz", "--cpp"): (2, f"no rule 'zzz'; there are {', '.join(rules.names()[:3])},"),
}


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_the_command(arguments, capsys):
    status, text = COMMANDS[arguments]
    with pytest.raises(SystemExit) as ended:
        sys.exit(cli.main(["rule", *arguments]))
    assert ended.value.code == status
    printed = capsys.readouterr()
    assert (printed.err if status else printed.out).count(text) == 1
