"""How messages name an argument."""

from __future__ import annotations

from typing import NoReturn


class Place:
    """Names an argument in messages: `[adamw] grads['w']: expected …, received …`."""

    def __init__(self, rule: str, argument: str) -> None:
        self.rule = rule
        self.argument = argument

    def fail(self, error: type[Exception], expected: str, received: str) -> NoReturn:
        raise error(f"{self}: expected {expected}, received {received}")

    def __str__(self) -> str:
        return f"[{self.rule}] {self.argument}"
