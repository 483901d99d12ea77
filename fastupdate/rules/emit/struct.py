"""Rules in C++: the struct that csrc/core/rule.h describes."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Container, Iterable
from typing import Any, TypeVar

from .expression import TAKEN, Expression
from .function import Function, Update
from .phase import Measure, Settle
from .source import Members, Source

F = TypeVar("F", bound=Function)
LONG = {"cube_root": 3, "real_power": 2}  # how many blocks are left room for by functions that take many registers
Declared = dict[str, dict[str, Any]]  # hyperparameters, flags, states or sums by name, with the keywords of each


class Struct:
    """A rule as a C++ struct."""

    def __init__(self, source: Source, name: str) -> None:
        self.source, self.node, self.name = source, source.classes[name], name.lower()
        self.members = source.members(name)
        kinds = ("Hyper",), ("Flag",), ("State",), ("Sum", "Maximum")
        self.hypers, self.flags, self.states, self.sums = (self.declared(self.members, *kind) for kind in kinds)
        self.flags = {name: flag for name, flag in self.flags.items() if flag.get("of") is None}
        self.scalars: list[str] = []
        self.helpers: dict[str, Function | None] = {}
        self.prepare = self.function("prepare", Function, {"h": [*self.hypers]})
        self.phases = [self.function(measure, Measure) for measure in self.measures]
        self.settles = [self.settle(k, extent) for k in range(len(self.phases)) for extent in self.extents_in(k)]
        if not self.phases:
            self.settles = [self.function(name, Settle) for name in self.members if name.startswith("settle_")]
        self.update = self.function("update", Update)

    @property
    def elements(self) -> list[str]:
        """States of which there is one for each element."""
        return self.states_of("element")

    @property
    def measures(self) -> list[str]:
        """The functions that come before `update`, in their order."""
        return sorted(name for name in self.members if name.partition("_")[0] == "measure")

    def extents_in(self, phase: int) -> list[str]:
        """What a phase sums over, in the order in which it is first met."""
        sums = self.summed_in(self.measures[phase])
        return list(dict.fromkeys(extent for name in sums for extent in extents_of(self.sums[name])))

    def settle(self, phase: int, extent: str) -> Settle:
        """What settles the sums of a phase over an extent: where several sum over it, the first has the plain name."""
        first = all(extent not in self.extents_in(k) for k in range(phase))
        number = "" if first else self.measures[phase].removeprefix("measure")
        function = self.function(f"settle_{extent}{number}", Settle)
        function.phase = phase
        return function

    def summed_in(self, measure: str) -> list[str]:
        """The sums to which a function adds."""
        return [name for name, total in self.sums.items() if total.get("of", "measure") == measure]

    def states_of(self, extent: str) -> list[str]:
        """The states of which there is one for each range of this extent."""
        return [name for name, state in self.states.items() if state.get("per", "element") == extent]

    @staticmethod
    def declared(members: Members, *kinds: str) -> Declared:
        """What is declared of a kind, in order."""
        found: Declared = {}
        for name, (source, value) in members.items():
            kind = ast.unparse(value.func).rpartition(".")[2] if isinstance(value, ast.Call) else ""
            if isinstance(value, ast.Call) and kind in kinds:
                if name in TAKEN:
                    raise source.refused(value, f"{name} means something else in C++: choose another name")
                found[name] = {"kind": kind, **{str(k.arg): _constant(k.value) for k in value.keywords}}
        return found

    def function(self, name: str, kind: type[F], records: dict[str, list[str]] | None = None) -> F:
        source, node = self.members.get(name, (self.source, None))
        if not isinstance(node, ast.FunctionDef):
            raise self.source.refused(self.node, f"expected a function {name}")
        return kind(self, source, node, records or {"s": self.scalars, "flags": [*self.flags]})

    def helper(self, caller: Expression, node: ast.AST, called: str) -> Function:
        """A function that another one calls."""
        if called not in self.helpers:
            found = caller.source.function(called)
            if found is None:
                raise caller.unknown(node, called)
            self.helpers[called] = None  # under way
            self.helpers[called] = Function(self, *found, caller.records)
        helper = self.helpers[called]
        if helper is None:
            raise caller.refused(node, f"{called} calls itself")
        return helper

    def text(self) -> str:
        page = ["", *(ast.get_docstring(self.node) or "").splitlines()]
        comment = "\n".join(f"// {line}".rstrip(" \\") for line in page)
        flags = "".join(f"  static constexpr bool {flag} = mask & {1 << k};\n" for k, flag in enumerate(self.flags))
        helpers = "".join(f"{helper.text(name)}\n" for name, helper in self.helpers.items() if helper)
        phases = [f"\n{function.text(f'Phase<{k}>')}" for k, function in enumerate(self.phases)]
        phases += [
            f"\n{function.text(f'Phase<{function.phase}>, Range<{constant(function.extent)}>')}"
            for function in self.settles
        ]
        return f"""// Emitted from fastupdate/rules/{self.name}.py: change that file, not this one.
{comment}
#pragma once

#include "core/rule.h"

namespace fastupdate::FASTUPDATE_TARGET {{

template <class T, unsigned mask>
struct {self.name} {{
  FASTUPDATE_HYPERS({", ".join(self.hypers)});
  FASTUPDATE_FLAGS({", ".join(self.flags)});
  FASTUPDATE_STATES({", ".join(self.states)});
{flags}  static constexpr int blocks = {self.blocks};
  using keeps = Keeps<{", ".join(state.get("when") or "true" for state in self.states.values())}>;
  static constexpr unsigned uses[] = {{{", ".join(self.masks(lambda function: function.words()))}}};
  static constexpr unsigned changes[] = {{{", ".join(self.masks(lambda function: function.changed))}}};
{self.shape()}
  struct {{
    T {", ".join(self.scalars)};
  }} s;

  {self.name}(const Hyper& h, [[maybe_unused]] double t) {{
{self.prepare.body}  }}

{helpers}{self.update.text("operator()")}{"".join(phases)}}};

}}  // namespace fastupdate::FASTUPDATE_TARGET
"""

    @property
    def blocks(self) -> int:
        """How many blocks of a GPU's threads share registers, in float32: fewer where an element takes many."""
        texts = (self.update.body, *(helper.body for helper in self.helpers.values() if helper))
        return min(LONG.get(word, 4) for text in texts for word in re.findall(r"\w+", text))

    def masks(self, named: Callable[[Function], Container[str]]) -> list[str]:
        """For each phase, and at last the rule, a mask of the states that are among what is named of its function."""
        found = [named(function) for function in (*self.phases, self.update)]
        masks = [bits(str(k) for k, name in enumerate(self.states) if name in names) for names in found]
        return ["0", *masks] if self.settles and not self.phases else masks  # what only settles is a phase, too

    def shape(self) -> str:
        """What states are of, and what each phase does; nothing if all is of an element and in one phase."""
        if not self.phases and not self.settles:
            return ""
        of = ", ".join(constant(state.get("per", "element")) for state in self.states.values())
        phases = []
        for k in range(len(self.phases) or 1):
            summed = self.summed_in(self.measures[k]) if self.phases else []
            settled = bits(constant(function.extent) for function in self.settles if function.phase == k)
            maxima = bits(str(i) for i, name in enumerate(summed) if self.sums[name]["kind"] == "Maximum")
            phases.append(f"{{{str(bool(self.phases)).lower()}, {len(summed)}, {settled}, {maxima}}}")
        return f"""  static constexpr Extent extents[] = {{{of}}};
  static constexpr PhaseShape phases[] = {{{", ".join(phases)}}};
"""


def extents_of(declared: dict[str, Any]) -> tuple[str, ...]:
    """What a sum is over."""
    per = declared["per"]
    return (per,) if isinstance(per, str) else tuple(per)


def bits(numbers: Iterable[str]) -> str:
    """A mask of these bits."""
    return " | ".join(f"1 << {number}" for number in numbers) or "0"


def constant(extent: str) -> str:
    """An extent's name in C++."""
    return f"k{extent.capitalize()}"


def _constant(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None
