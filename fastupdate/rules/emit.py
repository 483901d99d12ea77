"""Writes rules as C++: a class of `fastupdate/rules/x.py` becomes the struct that csrc/core/rule.h describes.

    python emit.py OUT        writes OUT/x.h for every rule beside this file, and prints their names

It reads the text of the files, runs none of it, and needs Python alone, so that a build can call it. What it does not
know has no place in a rule, for C++, CUDA, Numba and NumPy could not be held to the same bits.
"""

from __future__ import annotations

import ast
import io
import math
import sys
import tokenize
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

RULES = Path(__file__).parent
Members = dict[str, tuple["Source", ast.AST]]  # what a class declares, and where
FUNCTIONS = {  # of scalar.py → of csrc/core/scalar.h; `where` is C++'s own ?:
    **{name: name for name in ("absolute", "maximum", "positive_part", "sign")},
    "sqrt": "square_root",
}
TERNARY, CHOSEN, SUM, PRODUCT, UNARY, ATOM = range(6)  # what binds tighter comes later
ARITHMETIC = {ast.Add: ("+", SUM), ast.Sub: ("-", SUM), ast.Mult: ("*", PRODUCT), ast.Div: ("/", PRODUCT)}
COMPARISONS = {ast.Gt: ">", ast.GtE: ">=", ast.Lt: "<", ast.LtE: "<=", ast.Eq: "==", ast.NotEq: "!="}
KINDS: dict[type[ast.AST], str] = {
    ast.For: "a loop", ast.While: "a loop", ast.ListComp: "a loop", ast.Subscript: "an index", ast.Lambda: "a lambda",
    ast.AugAssign: "writing into what the caller holds (write x = x + …)", ast.Return: "a return before the end",
    ast.Raise: "an exception", ast.Compare: "a comparison outside where()", ast.If: "an if (write a if … else b)",
}  # fmt: skip
TAKEN = {  # names that a rule might choose, and that mean something else in C++ or in the struct
    "auto", "bool", "case", "char", "const", "default", "delete", "double", "enum", "extern", "float", "inline", "int",
    "long", "new", "operator", "private", "public", "register", "short", "signed", "static", "struct", "switch", "this",
    "union", "unsigned", "using", "void", "volatile", "h", "s", "t", "T", "mask", "keeps", "pow", *FUNCTIONS.values(),
}  # fmt: skip


class RefusedError(TypeError):
    """Something has no place in a rule; the message begins with file and line."""


class Source:
    """A file that holds rules, or functions for them."""

    def __init__(self, path: Path, text: str | None = None) -> None:
        self.path = path
        self.text = path.read_text(encoding="utf-8") if text is None else text
        try:
            self.tree = ast.parse(self.text)
        except SyntaxError as error:
            raise RefusedError(f"{path}:{error.lineno}: {error.msg}") from None
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        self.comments = {
            token.start[0]: token.string[1:].strip(" \\") for token in tokens if token.type == tokenize.COMMENT
        }
        self.functions = {node.name: node for node in self.tree.body if isinstance(node, ast.FunctionDef)}
        self.classes = {node.name: node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef)}
        self.rules = [c.name for c in self.classes.values() if "update" in {getattr(n, "name", "") for n in c.body}]

    @cached_property
    def imported(self) -> dict[str, Source]:
        """Names that come from other rules, and the files that they come from."""
        found: dict[str, Source] = {}
        for node in self.tree.body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fastupdate.rules."):
                path = RULES / f"{(node.module or '').rpartition('.')[2]}.py"
                if path.stem not in ("rule", "scalar") and path.exists():
                    found |= {alias.name: Source(path) for alias in node.names}
        return found

    def function(self, name: str) -> tuple[Source, ast.FunctionDef] | None:
        """A function of this file, or one that it imports."""
        if name in self.functions:
            return self, self.functions[name]
        return self.imported[name].function(name) if name in self.imported else None

    def members(self, name: str) -> Members:
        """What a class and its bases declare, values and functions, by name and in order."""
        found: Members = {}
        for base in self.classes[name].bases:
            known = ast.unparse(base)
            where = self.imported.get(known, self)
            if known not in where.classes:
                raise self.refused(base, f"{known} is no rule of this file, nor imported by name from fastupdate.rules")
            found |= where.members(known)
        for node in self.classes[name].body:
            match node:
                case ast.Assign([ast.Name(declared)], value):
                    found[declared] = (self, value)
                case ast.FunctionDef(declared):
                    found[declared] = (self, node)
        return found

    def refused(self, node: ast.AST, reason: str) -> RefusedError:
        line = getattr(node, "lineno", 1)
        return RefusedError(f"{self.path}:{line}: {reason}: {self.text.splitlines()[line - 1].strip()}")


class Struct:
    """A rule as a C++ struct."""

    def __init__(self, source: Source, name: str) -> None:
        self.source, self.node, self.name = source, source.classes[name], name.lower()
        members = source.members(name)
        self.hypers, self.flags, self.states = (self.declared(members, kind) for kind in ("Hyper", "Flag", "State"))
        self.scalars: list[str] = []
        self.helpers: dict[str, Function | None] = {}
        self.prepare = self.function(members, "prepare", {"h": [*self.hypers]})
        self.update = self.function(members, "update", {"s": self.scalars, "flags": [*self.flags]})
        last = self.update.node.body[-1]
        if self.update.results != [*self.states] or not isinstance(getattr(last, "value", None), ast.Tuple):
            raise self.update.refused(last, f"expected (the change of p, {', '.join(self.states)})")

    @staticmethod
    def declared(members: Members, kind: str) -> dict[str, str | None]:
        """Hyperparameters, flags or states, in order, each with the name it gives as `when`."""
        found: dict[str, str | None] = {}
        for name, (source, value) in members.items():
            if isinstance(value, ast.Call) and ast.unparse(value.func).rpartition(".")[2] == kind:
                if name in TAKEN:
                    raise source.refused(value, f"{name} means something else in C++: choose another name")
                when = [k.value.value for k in value.keywords if k.arg == "when" and isinstance(k.value, ast.Constant)]
                found[name] = str(when[0]) if when else None
        return found

    def function(self, members: Members, name: str, records: dict[str, list[str]]) -> Function:
        source, node = members.get(name, (self.source, None))
        if not isinstance(node, ast.FunctionDef):
            raise self.source.refused(self.node, f"expected a function {name}")
        return Function(self, source, node, records)

    def helper(self, caller: Expression, node: ast.AST, called: str) -> Function:
        """A function that another one calls."""
        if called not in self.helpers:
            found = caller.source.function(called)
            if found is None or caller.prepares:
                there = [*FUNCTIONS, "where", *caller.source.functions]
                raise caller.refused(node, f"{called} is no function for rules; there are {', '.join(there)}")
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
{flags}  using keeps = Keeps<{", ".join(when or "true" for when in self.states.values())}>;

  struct {{
    T {", ".join(self.scalars)};
  }} s;

  {self.name}(const Hyper& h, [[maybe_unused]] double t) {{
{self.prepare.body}  }}

{helpers}{self.update.text("operator()")}}};

}}  // namespace fastupdate::FASTUPDATE_TARGET
"""


class Expression(ast.NodeVisitor):
    """Expressions in C++: each visit gives the text, and how tightly it binds."""

    struct: Struct
    source: Source
    refused: Callable[[ast.AST, str], RefusedError]
    records: dict[str, list[str]]  # what may stand before a dot, and what after it
    known: set[str]  # names that have a value
    prepares: bool

    def at(self, node: ast.expr, least: int = TERNARY) -> str:
        """An expression, in parentheses if it binds less tightly than is needed where it stands."""
        text, binding = self.visit(node)
        return text if binding >= least else f"({text})"

    def generic_visit(self, node: ast.AST) -> tuple[str, int]:
        raise self.refused(node, f"{KINDS.get(type(node), 'this')} has no place in a rule")

    def visit_Name(self, node: ast.Name) -> tuple[str, int]:
        if node.id not in self.known:
            raise self.refused(node, f"{node.id} has no value here")
        return node.id, ATOM

    def visit_Attribute(self, node: ast.Attribute) -> tuple[str, int]:
        owner = ast.unparse(node.value)
        if owner not in set(self.records) - {"flags"}:
            return self.generic_visit(node)
        if node.attr not in self.records[owner]:
            raise self.refused(node, f"{owner} has no {node.attr}; it has {', '.join(self.records[owner])}")
        return f"{owner}.{node.attr}", ATOM

    def visit_Constant(self, node: ast.Constant) -> tuple[str, int]:
        value = node.value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self.refused(node, f"{value!r} has no place in a rule")
        if isinstance(value, int) and not self.prepares:
            raise self.refused(node, f"write {value}.0, for an integer would take Numba to float64")
        return repr(float(value)) if self.prepares else f"T({value!r})", ATOM

    def visit_UnaryOp(self, node: ast.UnaryOp) -> tuple[str, int]:
        return (f"-{self.at(node.operand, ATOM)}", UNARY) if isinstance(node.op, ast.USub) else self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> tuple[str, int]:
        if isinstance(node.op, ast.Pow):
            if not self.prepares:
                raise self.refused(node, "a power has its place in prepare, for each device rounds it in its own way")
            text = f"pow({self.at(node.left)}, {self.at(node.right)})"
            if any(_is_literal(side) and ast.literal_eval(side) * 2 % 1 == 0 for side in (node.left, node.right)):
                raise self.refused(node, "compilers make products and roots of such powers: write them so")
            return text, ATOM
        if type(node.op) not in ARITHMETIC:
            return self.generic_visit(node)
        if not self.prepares and _is_literal(node.left) and _is_literal(node.right):
            raise self.refused(node, "Python would compute this in float64: write the result, or use prepare")
        sign, binding = ARITHMETIC[type(node.op)]
        return f"{self.at(node.left, binding)} {sign} {self.at(node.right, binding + 1)}", binding

    def visit_IfExp(self, node: ast.IfExp) -> tuple[str, int]:
        test = self.comparison if self.prepares else self.flag_test
        return self.choice(test(node.test), node.body, node.orelse)

    def visit_Call(self, node: ast.Call) -> tuple[str, int]:
        if not isinstance(node.func, ast.Name) or node.keywords:
            return self.generic_visit(node)
        if node.func.id == "where" and len(node.args) == 3 and not self.prepares:
            test, body, orelse = node.args
            if _is_literal(body) and _is_literal(orelse):
                raise self.refused(node, "NumPy would make float64 of two literals: compute one of them")
            return self.choice(self.comparison(test), body, orelse)
        return self.call(node, node.func.id, node.args, []), ATOM

    def choice(self, test: str, body: ast.expr, orelse: ast.expr) -> tuple[str, int]:
        return f"{test} ? {self.at(body, CHOSEN)} : {self.at(orelse)}", TERNARY

    def comparison(self, node: ast.expr) -> str:
        match node:
            case ast.Compare(left, [operator], [right]) if type(operator) in COMPARISONS:
                return f"{self.at(left, SUM)} {COMPARISONS[type(operator)]} {self.at(right, SUM)}"
        raise self.refused(node, "expected one comparison of two numbers")

    def flag_test(self, node: ast.expr) -> str:
        """A condition that is known when the variant is compiled."""
        match node:
            case ast.Attribute(ast.Name("flags"), name) if name in self.struct.flags:
                return name
            case ast.UnaryOp(ast.Not(), operand):
                return f"!{self.flag_test(operand)}"
            case ast.BoolOp(operator, values):
                sign = " && " if isinstance(operator, ast.And) else " || "
                return f"({sign.join(map(self.flag_test, values))})"
        raise self.refused(node, f"only flags decide here ({', '.join(self.struct.flags)}); for numbers use where()")

    def call(self, node: ast.AST, called: str, given: list[ast.expr], targets: list[str]) -> str:
        """A call whose results beside the first go to `targets`."""
        if called in FUNCTIONS and not targets:
            return f"{FUNCTIONS[called]}({', '.join(map(self.at, given))})"
        helper = self.struct.helper(self, node, called)
        passed = dict(zip(helper.parameters, given, strict=False))
        records = set(self.records) & set(passed)
        if len(given) != len(helper.parameters) or any(ast.unparse(passed[name]) != name for name in records):
            raise self.refused(node, f"expected {called}({', '.join(helper.parameters)})")
        if [ast.unparse(passed[name]) for name in helper.results] != targets or len(set(targets)) < len(targets):
            raise self.refused(node, f"expected …, {', '.join(helper.results)} = {called}(…), as it names its results")
        return f"{called}({', '.join(self.at(passed[name]) for name in helper.numbers)})"


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
        used = {n.id for n in ast.walk(self.node) if isinstance(n, ast.Name)}
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


def _is_literal(node: ast.expr) -> bool:
    return isinstance(node.operand if isinstance(node, ast.UnaryOp) else node, ast.Constant)


def emit(path: Path, name: str | None = None, text: str | None = None) -> str:
    """The C++ of a file's rule, or of the one whose class has this name; RefusedError says what has no place in it."""
    return Struct(source := Source(path, text), name or source.rules[0]).text()


def main(out: Path) -> None:
    """Writes what has changed, so that no more is compiled than must be."""
    sources = [source for source in map(Source, sorted(RULES.glob("*.py"))) if source.rules]
    structs = {source.path.stem: Struct(source, source.rules[0]) for source in sources}
    out.mkdir(parents=True, exist_ok=True)
    for name, struct in structs.items():
        if struct.name != name:
            raise struct.source.refused(struct.node, f"{name}.py is expected to hold a class of that name")
        file, text = out / f"{name}.h", struct.text()
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
    print("\n".join(structs))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except RefusedError as error:
        sys.exit(str(error))
