"""Expressions in C++."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from .source import RefusedError, Source

if TYPE_CHECKING:
    from .struct import Struct

FUNCTIONS = {  # of scalar.py → of csrc/core/scalar.h; `where` is C++'s own ?:
    **{name: name for name in ("absolute", "maximum", "positive_part", "sign")},
    "sqrt": "square_root",
    "cbrt": "cube_root",
    "power": "real_power",
}
# What has its place in `prepare` alone: of <math.h>, which each device rounds in its own way, and what takes steps.
PREPARING = {name: name for name in ("exp", "log", "rectification", "warming_product")}
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
    "union", "unsigned", "using", "void", "volatile", "h", "s", "t", "T", "mask", "keeps", "changes", "pow",
    *FUNCTIONS.values(), *PREPARING,
}  # fmt: skip


class Expression(ast.NodeVisitor):
    """Expressions in C++: each visit gives the text, and how tightly it binds."""

    struct: Struct
    source: Source
    refused: Callable[[ast.AST, str], RefusedError]
    records: dict[str, list[str]]  # what may stand before a dot, and what after it
    known: set[str]  # names that have a value
    prepares: bool

    def unknown(self, node: ast.AST, called: str) -> RefusedError:
        there = [*FUNCTIONS, "where", *self.source.functions]
        return self.refused(node, f"{called} is no function for rules; there are {', '.join(there)}")

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
            if any(is_literal(side) and ast.literal_eval(side) * 2 % 1 == 0 for side in (node.left, node.right)):
                raise self.refused(node, "compilers make products and roots of such powers: write them so")
            return text, ATOM
        if type(node.op) not in ARITHMETIC:
            return self.generic_visit(node)
        if not self.prepares and is_literal(node.left) and is_literal(node.right):
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
            if is_literal(body) and is_literal(orelse):
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
        functions = FUNCTIONS | PREPARING if self.prepares else FUNCTIONS
        if called in functions and not targets:
            return f"{functions[called]}({', '.join(map(self.at, given))})"
        if self.prepares:
            return self.written_out(node, called, given)
        helper = self.struct.helper(self, node, called)
        passed = dict(zip(helper.parameters, given, strict=False))
        records = set(self.records) & set(passed)
        if len(given) != len(helper.parameters) or any(ast.unparse(passed[name]) != name for name in records):
            raise self.refused(node, f"expected {called}({', '.join(helper.parameters)})")
        if [ast.unparse(passed[name]) for name in helper.results] != targets or len(set(targets)) < len(targets):
            raise self.refused(node, f"expected …, {', '.join(helper.results)} = {called}(…), as it names its results")
        return f"{called}({', '.join(self.at(passed[name]) for name in helper.numbers)})"

    def written_out(self, node: ast.AST, called: str, given: list[ast.expr]) -> str:
        """What a function of this file makes of hyperparameters, in the place of its call in `prepare`."""
        function = self.source.functions.get(called)
        body = () if function is None else function.body[1:] if ast.get_docstring(function) else function.body
        match body:
            case [ast.Return(ast.expr() as value)] if [ast.unparse(x) for x in given] == ["h"]:
                if function and ast.unparse(function.args) == "h":
                    return f"({self.at(value)})"
        raise self.unknown(node, called)


def is_literal(node: ast.expr) -> bool:
    return isinstance(node.operand if isinstance(node, ast.UnaryOp) else node, ast.Constant)
