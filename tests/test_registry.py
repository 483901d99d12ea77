"""C++ and Python describe the same rules and the same records, and later rules find their place by themselves."""

from __future__ import annotations

import importlib.util
import inspect
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cases import ELEMENTWISE, RULES, Case, assert_same_bits, cases_of, generic_cases, isas
from reference import Reference

import fastupdate as fu
from fastupdate import rules, stages
from fastupdate.engines import choose, records

ROOT = Path(__file__).resolve().parents[1]
RECORDS = {
    "Tensor": records.TENSOR,
    "Group": records.GROUP,
    "Sums": records.SUMS,
    "Layout": records.LAYOUT,
    "Rows": records.ROWS,
    "Recipe": records.RECIPE,
    "Schedule": records.SCHEDULE,
    "Link": records.LINK,
}
CONSTANTS = {
    "kBlock": records.BLOCK,
    "kLanes": records.LANES,
    "kMaxStates": records.MAX_STATES,
    "kMaxHypers": records.MAX_HYPERS,
    "kScalarBytes / 8": records.MAX_SCALARS,
    "kMaxTerms": records.MAX_SUMS,
    "kMaxDims": records.MAX_DIMS,
}
native_only = pytest.mark.skipif(not isas(), reason=f"no native module: {choose.native_problem()}")
by_name = pytest.mark.parametrize("name", rules.names())


def split(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip())


@native_only
def test_names():
    from fastupdate import _core

    native = {name for name in rules.names() if rules.get(name).rule.native}
    assert set(_core.rules()) == native


@native_only
@by_name
def test_names_of_a_rule(name):
    """Hyperparameters, flags and states have the same names in the same order, for Python passes them by position."""
    from fastupdate import _core

    rule = rules.get(name).rule
    if not rule.native:
        pytest.skip(f"{name} has no C++ form")
    assert tuple(map(split, _core.rules()[name])) == (tuple(rule.hypers), rule.compiled_flags, rule.states)


@by_name
def test_a_rule_is_whole(name):
    """What engines rely on: limits, names that refer to each other, scalars for every compute type."""
    cls = rules.get(name)
    rule = cls.rule
    assert rule.name == name
    assert getattr(fu, cls.__name__) is cls
    assert len(rule.states) <= records.MAX_STATES
    assert len(rule.hypers) <= records.MAX_HYPERS
    assert set(rule.state_flags) <= set(rule.states)
    assert set(rule.state_flags.values()) | set(rule.flag_hypers) <= set(rule.flags)
    assert set(rule.flag_hypers.values()) <= set(rule.hypers)
    assert rule.momentum is None or rule.momentum in rule.states
    assert cls.__doc__
    assert "Source:" in cls.__doc__
    scalars = rule.prepare(cls([np.zeros((1, 1))]).groups[0], 1)
    assert len(scalars) <= records.MAX_SCALARS


@by_name
def test_a_function_of_the_same_name(name):
    function = getattr(fu.functional, name)
    assert function.__name__ == name
    assert name in fu.functional.__all__


def test_every_flag_has_a_case():
    """The table of cases switches every flag of every rule on and off."""
    for name in rules.names():
        flags = [case.make([np.zeros((1, 1))]).stepper.flags for case in cases_of(name)]
        for flag in rules.get(name).rule.flags:
            assert {f[flag] for f in flags} == {False, True}, f"{name}: {flag}"


@pytest.mark.parametrize("name", RULES)
def test_generic_cases(name):
    """A rule without a row in the table gets cases that run and cover its flags."""
    cls = rules.get(name)
    for key, kwargs in generic_cases(cls).items():
        p, g = np.linspace(-1, 1, 40), np.linspace(2, 1, 40)
        reference = Reference(Case(name, key, kwargs), [p])
        cls([p], **kwargs).step([g])
        reference.step([g])
        assert_same_bits(p, reference.params[0], key)


@native_only
def test_record_sizes():
    from fastupdate import _core

    assert _core.record_sizes() == {name.lower(): dtype.itemsize for name, dtype in RECORDS.items()}


KINDS = {"u": "unsigned", "i": "signed", "f": "floating"}
PROBE = """
#include <cstddef>
#include <cstdio>
#include <type_traits>
#include "core/derive.h"
#include "core/extents.h"
using namespace fastupdate;
template <class T> const char* kind() {
  using X = std::remove_all_extents_t<T>;
  return std::is_floating_point_v<X> ? "floating" : std::is_signed_v<X> ? "signed" : "unsigned";
}
#define FIELD(record, name) std::printf("%s %s %zu %zu %s\\n", #record, #name, offsetof(record, name), \\
  sizeof(record::name), kind<decltype(record::name)>());
int main() {
"""


def test_record_fields(tmp_path):
    """Every field has the same offset, size and kind in C++ as in Python."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        pytest.skip("needs a C++ compiler")
    inside = {number: f"numbers.{number}" for number in stages.NUMBERS}  # of a group
    fields = [f"FIELD({name}, {inside.get(field, field)})" for name, dtype in RECORDS.items() for field in dtype.names]
    constants = "".join(f'std::printf("%d\\n", (int)({name}));' for name in CONSTANTS)
    bits = {f"k{stage.name}": stage.bit for stage in stages.STAGES}
    bits |= {"kZeroGrads": records.ZERO_GRADS, "kMonitor": records.MONITOR, "kAtTimes": stages.AT_TIMES}
    bits |= {f"k{place.title()}Stages": stages.at(place) for place in stages.PLACES}
    prints = "".join(f'std::printf("%d\\n", (int){name});' for name in bits)
    source = tmp_path / "probe.cpp"
    source.write_text(PROBE + "\n".join(fields) + constants + prints + "}\n")
    subprocess.run([sys.executable, ROOT / "fastupdate" / "rules" / "emit", tmp_path], check=True, capture_output=True)
    subprocess.run(
        [compiler, "-std=c++17", f"-I{ROOT / 'csrc'}", f"-I{tmp_path}", source, "-o", tmp_path / "probe"], check=True
    )
    printed = subprocess.run([tmp_path / "probe"], capture_output=True, text=True, check=True).stdout.splitlines()
    expected = []
    for name, dtype in RECORDS.items():
        for field in dtype.names:
            base, offset = dtype.fields[field][:2]
            expected.append(f"{name} {inside.get(field, field)} {offset} {base.itemsize} {KINDS[base.base.kind]}")
    expected += [str(number) for number in (*CONSTANTS.values(), *bits.values())]
    assert printed == expected


@native_only
@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("t", [1, 2, 10, 1000, 10**6, 2**40], ids=str)
def test_scalars_of_a_step(name, t):
    """`prepare` in C++ is `prepare` in Python to the last bit: seen in float64 results at every order of step."""
    for case in cases_of(name):
        p, g = np.linspace(-3, 3, 64), np.cos(np.arange(64.0))
        reference = Reference(case, [p])
        reference.t = t - 1
        opt = case.make([p], backend="native")
        opt.start_at(t)
        opt.step([g])
        reference.step([g])
        assert_same_bits(p, reference.params[0], str(case))


@pytest.mark.parametrize("script", ["stub.py", "rules_page.py", "api_page.py", "which_rule_page.py"])
def test_what_scripts_write_is_up_to_date(script):
    command = [sys.executable, ROOT / "scripts" / script, "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@by_name
def test_a_class_as_if_written_out(name):
    """What help(), inspect, pickle and a subclass see."""
    cls = rules.get(name)
    arguments = inspect.signature(cls).parameters
    first, *_, last = arguments
    assert (first, last) == ("params", "options")
    hypers = {part for key in arguments for part in cls.rule.aliases.get(key, (key,))}
    further = {"others"} if cls.rule.matrix else set()
    assert hypers - {"params", "options"} - further == {*cls.rule.hypers, *cls.rule.flags} - set(cls.rule.flag_hypers)
    assert all(p.default is not p.empty for key, p in arguments.items() if key not in ("params", "options"))
    assert pickle.loads(pickle.dumps(cls)) is cls
    assert inspect.getdoc(cls).startswith(inspect.getdoc(cls.rule.formula))
    described = {part: f"{alias}[{k}]" for alias, parts in cls.rule.aliases.items() for k, part in enumerate(parts)}
    assert all(f"\n{described.get(hyper, hyper)} " in cls.__doc__ for hyper in cls.rule.hypers)
    for bad in ({}, {"params": [np.zeros(1)], "lrr": 1.0}):
        with pytest.raises(TypeError, match=rf"{cls.__name__}\(\) missing .*'params'|\[{name}\] lrr: no such option"):
            cls(**bad)


TYPED = """
import numpy as np
import fastupdate as fu

p = [np.zeros(3)]
fu.AdamW(p, lr=1e-3, betas=(0.9, lambda step: 0.99), amsgrad=True, clip_norm=1.0)
fu.AdamW(p, lr=fu.schedules.cosine(1e-3, steps=10))
fu.AdamW(p, lr="1e-3")
fu.AdamW(p, betas=0.9)
fu.SGD(p, nesterov="yes")
fu.SGD(p, momentun=0.9)
"""


def test_types_of_arguments(tmp_path):
    """A type checker finds the mistakes, and those alone."""
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("needs mypy")
    (tmp_path / "typed.py").write_text(TYPED)
    command = [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml", tmp_path / "typed.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = [int(line.split(":")[1]) for line in done.stdout.splitlines() if "typed.py" in line and ": error:" in line]
    assert found == [8, 9, 10, 11], done.stdout + done.stderr
