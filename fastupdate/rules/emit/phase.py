"""What comes before `update` in C++: functions that measure elements, and functions that settle what they add up to."""

from __future__ import annotations

import ast
import re

from .function import Function


class Phase(Function):
    """A function that gives back numbers by any number of arguments."""

    called: str  # in C++
    own = re.compile(r"state|sum|(term|result)\d+")  # names in what is emitted around the rule's text

    def check_name(self, node: ast.AST, name: str) -> None:
        super().check_name(node, name)
        if self.own.fullmatch(name):
            raise self.refused(node, f"{name} means something else in C++: choose another name")

    def give_back(self, value: ast.expr) -> None:
        wanted = self.wanted()
        results = value.elts if isinstance(value, ast.Tuple) else [value]
        if len(results) != len(wanted) or isinstance(value, ast.Tuple) != (len(wanted) > 1):
            raise self.refused(value, f"expected {', '.join(wanted)}")
        self.changed |= {name for name, result in zip(wanted, results, strict=True) if ast.unparse(result) != name}
        for k, result in enumerate(results):
            self.put(f"const T result{k} = {self.at(result)};", result)
        for k, name in enumerate(wanted):
            self.put(f"{self.place(name)} = result{k};")

    def wanted(self) -> list[str]:
        """What the function is to return, by name."""
        raise NotImplementedError

    def place(self, name: str) -> str:
        """Where a parameter comes from, or a result goes to."""
        raise NotImplementedError

    def arguments(self) -> list[str]:
        """The arguments in C++."""
        raise NotImplementedError

    def text(self, name: str) -> str:
        """The function; one of several is chosen by an argument of the type that is named."""
        used = self.words()
        taken = [(a, self.place(a)) for a in self.numbers if a in used]
        lines = "".join(f"    T {a} = {place};\n" for a, place in taken if a != place)
        chosen = [name] if name else []
        arguments = ", ".join([*chosen, *(f"[[maybe_unused]] {argument}" for argument in self.arguments())])
        return f"  FASTUPDATE_HD void {self.called}({arguments}) const {{\n{lines}{self.body}  }}\n"


class Measure(Phase):
    """The terms of an element, and the states that are of an element; each has a name, for loops over what has none are
    not vectorized."""

    called = "measure"

    def terms(self) -> list[str]:
        return self.struct.summed_in(self.node.name)

    def wanted(self) -> list[str]:
        return [*self.terms(), *self.struct.elements]

    def place(self, name: str) -> str:
        terms = self.terms()
        return f"term{terms.index(name)}" if name in terms else name

    def arguments(self) -> list[str]:
        states = [f"T{'&' if name in self.struct.elements else ''} {name}" for name in self.struct.states]
        return ["T g", "T p", *states, *(f"double& {self.place(term)}" for term in self.terms())]


class MeasureStage(Measure):
    """The terms of an element, of a stage."""

    def terms(self) -> list[str]:
        return [*self.struct.sums]

    def wanted(self) -> list[str]:
        return self.terms()

    def arguments(self) -> list[str]:
        return ["T g", "T p", "T change", *(f"double& {self.place(term)}" for term in self.terms())]


class Settle(Phase):
    """The states of a range, by what its elements have added up to."""

    called = "settle"
    phase = 0  # of what it settles

    @property
    def extent(self) -> str:
        return self.node.name.split("_")[1]

    def wanted(self) -> list[str]:
        return self.struct.states_of(self.extent)

    def place(self, name: str) -> str:
        if name in self.struct.states:
            return f"*state[{[*self.struct.states].index(name)}]"
        if name == "n":
            return name
        return f"sum[{self.struct.summed_in(self.struct.measures[self.phase]).index(name)}]"

    def arguments(self) -> list[str]:
        return ["T n", "const double* sum", "double* const* state"]
