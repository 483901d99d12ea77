"""Functions in C++."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from .expression import TAKEN, Expression
from .source import Source

if TYPE_CHECKING:
    from .struct import Struct


class Function(Expression):
    """A function in C++. `s` and the flags are members of the struct; what it returns beside its first value goes back
    through its arguments."""

    def __init__(self, struct: Struct, source: Source, node: ast.FunctionDef, records: dict[str, list[str]]) -> None:
        self.struct, self.source, self.node, self.records = struct, source, node, records
        self.refused = source.refused
        self.prepares = "h" in records
        self.parameters = [argument.arg for argument in node.args.args]
        self.numbers = [name for name in self.parameters if name not in records]
        self.known = set(self.numbers)
        self.results: list[str] = []
        self.changed = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        self.body, self.indent = "", "    "
        for name in () if self.prepares else self.numbers:
            self.check_name(node, name)
        *statements, last = node.body[1:] if ast.get_docstring(node) else node.body
        if not isinstance(last, ast.Return) or last.value is None:
            raise self.refused(last, f"{node.name} ends without a return")
        for statement in statements:
            self.visit(statement)
        (self.give_scalars if self.prepares else self.give_back)(last.value)

    def text(self, name: str) -> str:
        """The function, under this name."""
        used = set(re.findall(r"\w+", self.body))
        parameters = ", ".join(
            f"{'' if a in used else '[[maybe_unused]] '}T{'&' if a in self.results else ''} {a}" for a in self.numbers
        )
        return f"  FASTUPDATE_HD T {name}({parameters}) const {{\n{self.body}  }}\n"

    def put(self, text: str, node: ast.AST | None = None) -> None:
        comment = self.source.comments.get(getattr(node, "end_lineno", 0))
        self.body += f"{self.indent}{text}{f'  // {comment}' if comment else ''}\n"

    def visit_Assign(self, node: ast.Assign) -> None:
        match node.targets, node.value:
            case [ast.Name(name)], value:
                self.assign(node, name, self.at(value))
            case [ast.Tuple(targets)], ast.Call(ast.Name(called), given, []):
                names = [ast.unparse(target) for target in targets]
                self.assign(node, names[0], self.call(node, called, given, names[1:]))
            case _:
                self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        if self.prepares:
            self.generic_visit(node)
        self.put(f"if constexpr ({self.flag_test(node.test)}) {{", node.test)
        self.branch(node.body)
        if node.orelse:
            self.put("} else {")
            self.branch(node.orelse)
        self.put("}")

    def branch(self, body: list[ast.stmt]) -> None:
        outside, indent = set(self.known), self.indent
        self.indent += "  "
        for statement in body:
            self.visit(statement)
        self.known, self.indent = outside, indent  # in C++ a name that is first set between braces ends with them

    def assign(self, node: ast.AST, name: str, value: str) -> None:
        self.check_name(node, name)
        kind = "" if name in self.known else "double " if self.prepares else "T "
        self.put(f"{kind}{name} = {value};", node)
        self.known.add(name)

    def check_name(self, node: ast.AST, name: str) -> None:
        if name in TAKEN or name in self.struct.flags or not name.isidentifier():
            raise self.refused(node, f"{name} means something else in C++: choose another name")

    def words(self) -> set[str]:
        """All names in what is emitted."""
        return set(re.findall(r"\w+", self.body))

    def give_scalars(self, value: ast.expr) -> None:
        if not isinstance(value, ast.Call) or ast.unparse(value.func) != "scalars" or value.args:
            raise self.refused(value, "expected scalars(name=value, …)")
        for k in value.keywords:
            self.put(f"s.{k.arg} = T({self.at(k.value)});", k.value)
            self.struct.scalars.append(str(k.arg))

    def give_back(self, value: ast.expr) -> None:
        first, *rest = value.elts if isinstance(value, ast.Tuple) else [value]
        self.results = [ast.unparse(result) for result in rest]
        if not set(self.results) <= set(self.numbers):
            raise self.refused(value, "beside its first value a function returns arguments, by their names")
        self.put(f"return {self.at(first)};", value)


class Update(Function):
    """The last function of a step: the change of the parameter, and the states that are of an element."""

    def give_back(self, value: ast.expr) -> None:
        super().give_back(value)
        elements = self.struct.elements
        if self.results != elements or not isinstance(value, ast.Tuple):
            raise self.refused(value, f"expected (the change of p, {', '.join(elements)})")
