"""The stages in C++: the header that engines include as "stages.h"."""

from __future__ import annotations

import ast
from functools import cached_property
from pathlib import Path

from .function import Function
from .phase import MeasureStage
from .source import Source
from .struct import Declared, Struct, constant

TABLE = Path(__file__).parents[2] / "stages" / "table.py"
GIVEN = ("lr", "weight_decay", "lookahead")  # that the step knows, beside the options of the stages
PLACES = ("gradient", "before", "change", "after", "copy")
ARGUMENTS = ("g", "p", "change")  # what an element may take; then its array


class Stage(Struct):
    """A stage as a C++ struct of the compute type."""

    def __init__(self, source: Source, name: str, options: list[str]) -> None:
        self.source, self.node, self.name = source, source.classes[name], name
        self.members = source.members(name)
        self.hypers, self.flags, self.states, self.sums = (
            self.declared(self.members, kind) for kind in ("Hyper", "Flag", "State", "Sum")
        )
        self.place = ast.literal_eval(self.members["at"][1])
        self.scalars: list[str] = []
        self.helpers: dict[str, Function | None] = {}
        self.prepare = self.function("prepare", Function, {"h": [*GIVEN, *options]})
        self.options, self.flags = self.flags, {}  # no variants: a flag is a number here
        self.element = self.function("element", Function)
        wanted = self.elements if self.place != "copy" else []
        if self.element.results != wanted or not {*self.element.numbers} <= {*ARGUMENTS, *self.states}:
            raise source.refused(self.element.node, f"expected element(s, … of {', '.join(ARGUMENTS)}, its array)")
        self.measure = self.function("measure", MeasureStage) if self.sums else None
        self.settle_own = self.function("settle", Function) if self.sums else None

    @property
    def extent(self) -> str:
        """What its array, or its number, is of."""
        return next(iter(self.states.values())).get("per", "element") if self.states else "element"

    @property
    def bit(self) -> str:
        """Its name in C++."""
        return f"k{self.name}"

    def text(self) -> str:
        page = (ast.get_docstring(self.node) or "").splitlines()
        helpers = "".join(f"{helper.text(name)}\n" for name, helper in self.helpers.items() if helper)
        own = array_name(next(iter(self.states))) if self.states else "-1"
        taken = self.passed(self.element)
        given = "".join(f"\n{line}" for line in (f"// {line}".rstrip() for line in page))
        return f"""{given}
template <class T>
struct {self.name} {{
  static constexpr uint32_t bit = {self.bit};
  static constexpr Place place = k{self.place.capitalize()};
  static constexpr int array = {own};
  static constexpr Extent extent = {constant(self.extent)};
  static constexpr int sums = {len(self.sums)};
  struct {{
    T {", ".join(self.scalars)};
  }} s;

  FASTUPDATE_HD explicit {self.name}(const StageNumbers& n) : s{{{", ".join(f"T(n.{x})" for x in self.scalars)}}} {{}}

{helpers}{self.element.text("element")}
  FASTUPDATE_HD T operator()([[maybe_unused]] T g, [[maybe_unused]] T p, [[maybe_unused]] T change,
                             [[maybe_unused]] T& own) const {{
    return element({taken});
  }}
{self.measuring()}}};
"""

    def passed(self, function: Function) -> str:
        """What one of its functions is called with."""
        called = dict.fromkeys(self.states, "own") | {name: f"sum[{k}]" for k, name in enumerate(self.sums)}
        return ", ".join(called.get(name, name) for name in function.numbers)

    def measuring(self) -> str:
        """What an element adds to the sums of its range, and what becomes of the range's number."""
        if self.measure is None or self.settle_own is None:
            return ""
        return f"""
{self.measure.text("")}
{self.settle_own.text("settle")}
  FASTUPDATE_HD T settled([[maybe_unused]] T n, const double* sum, [[maybe_unused]] T own) const {{
    return settle({self.passed(self.settle_own)});
  }}
"""


def default_of(declared: ast.AST) -> str:
    """The default of an option, in C++."""
    default = declared.args[0]  # type: ignore[attr-defined]
    text = ast.unparse(default)
    return text.replace("math.inf", "__builtin_inf()") if "inf" in text else repr(ast.literal_eval(default))


def array_name(state: str) -> str:
    """The name in C++ of a stage's array."""
    return f"k{state.capitalize()}"


class Stages:
    """All stages of the table."""

    def __init__(self, source: Source) -> None:
        self.hypers: dict[str, str] = {}  # with their defaults
        self.flags: Declared = {}
        for name in source.classes:
            members = source.members(name)
            self.hypers |= {x: default_of(members[x][1]) for x in Struct.declared(members, "Hyper")}
            self.flags |= Struct.declared(members, "Flag")
        self.stages = [Stage(source, name, [*self.hypers, *self.flags]) for name in source.classes]

    @cached_property
    def numbers(self) -> list[str]:
        return [number for stage in self.stages for number in stage.scalars]

    @cached_property
    def arrays(self) -> list[str]:
        return [array_name(state) for stage in self.stages for state in stage.states]

    def masks(self) -> str:
        """Which stages there are at each place."""
        rows = []
        for place in PLACES:
            bits = " | ".join(stage.bit for stage in self.stages if stage.place == place)
            rows.append(f"constexpr uint32_t k{place.capitalize()}Stages = {bits};\n")
        at_times = " | ".join(stage.bit for stage in self.stages if "at_times" in stage.members)
        measuring = " | ".join(stage.bit for stage in self.stages if stage.measure)
        rows.append(f"constexpr uint32_t kAtTimes = {at_times};  // in the steps that synchronise alone\n")
        return "".join([*rows, f"constexpr uint32_t kMeasuring = {measuring};  // by a sum, before anything moves\n"])

    def text(self) -> str:
        bits = ", ".join(f"{stage.bit} = {1 << k}" for k, stage in enumerate(self.stages))
        given = [*GIVEN, *self.hypers, *self.flags]
        prepare = "".join(f"  {{\n{stage.prepare.body}  }}\n" for stage in self.stages)
        working = "".join(
            f"  if ({' || '.join(f's.{x} != idle.{x}' for x in stage.scalars)}) stages |= {stage.bit};\n"
            for stage in self.stages
            if not stage.states
        )
        return f"""// Emitted from fastupdate/stages/table.py: change that file, not this one.
#pragma once

#include <stdint.h>

#include "core/extent.h"
#include "core/scalar.h"

namespace fastupdate {{

enum Stage : uint32_t {{ {bits}, kFirstOther = {1 << len(self.stages)} }};

// The arrays of stages.
enum StageArray {{ {", ".join([*self.arrays, "kStageArrays"])} }};

// What a group is given beside the rule's hyperparameters; its row holds these after them.
struct Shared {{
  double lr_scale, {", ".join(self.hypers)};
}};

constexpr Shared kDefaults = {{1, {", ".join(self.hypers.values())}}};

// All that stages are made of, in float64.
struct StageInputs {{
  double {", ".join(given)};

  // flags: bit k is flag k
  void set(const Shared& given, uint32_t flags) {{
    {" ".join(f"{x} = given.{x};" for x in self.hypers)}
    {" ".join(f"{x} = flags >> {k} & 1;" for k, x in enumerate(self.flags))}
  }}
}};

// The numbers of all stages in one step and group.
struct StageNumbers {{
  double {", ".join(self.numbers)};
}};

inline StageNumbers prepared_stages(const StageInputs& h) {{
  using T = double;
  using namespace FASTUPDATE_TARGET;
  StageNumbers s;
{prepare}  return s;
}}

// The stages without arrays whose numbers are not those of a step in which they have nothing to do.
inline uint32_t working_stages(const StageNumbers& s, const StageNumbers& idle) {{
  uint32_t stages = 0;
{working}  return stages;
}}

enum Place {{ {", ".join(f"k{place.capitalize()}" for place in PLACES)} }};
{self.masks()}
#define FASTUPDATE_STAGES(ROW) {" ".join(f"ROW({stage.name})" for stage in self.stages)}

namespace FASTUPDATE_TARGET {{
{"".join(stage.text() for stage in self.stages)}
}}  // namespace FASTUPDATE_TARGET
}}  // namespace fastupdate
"""


def emit_stages() -> str:
    """The header of the library's stages."""
    return Stages(Source(TABLE)).text()
