"""The text of rules: which functions, classes and comments a file holds, and what its classes declare."""

from __future__ import annotations

import ast
import io
import tokenize
from functools import cached_property
from pathlib import Path

RULES = Path(__file__).parents[1]
Members = dict[str, tuple["Source", ast.AST]]  # what a class declares, and where


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
