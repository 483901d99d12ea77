"""Written by scripts/stub.py from the rules: what each optimizer class takes."""

from collections.abc import Callable, Mapping
from typing import Any, Unpack

from fastupdate.optimizer import Optimizer
from fastupdate.rules.rule import Rule
from fastupdate.step.options import Options

_Scheduled = float | Callable[[int], float]  # a number, or a function of the steps taken

CLASSES: Mapping[str, type[Optimizer]]

def arguments(rule: Rule) -> dict[str, Any]: ...
def make(rule: Rule, module: str) -> type[Optimizer]: ...
def page(rule: Rule) -> str: ...
def rule(formula: type) -> type[Optimizer]: ...

class Adam(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.001,
        betas: tuple[_Scheduled, _Scheduled] = (0.9, 0.999),
        eps: _Scheduled = 1e-08,
        weight_decay: _Scheduled = 0.0,
        amsgrad: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class AdamW(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.001,
        betas: tuple[_Scheduled, _Scheduled] = (0.9, 0.999),
        eps: _Scheduled = 1e-08,
        weight_decay: _Scheduled = 0.01,
        amsgrad: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class Momentum(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.01,
        beta: _Scheduled = 0.9,
        weight_decay: _Scheduled = 0.0,
        nesterov: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class RMSprop(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.01,
        alpha: _Scheduled = 0.99,
        eps: _Scheduled = 1e-08,
        weight_decay: _Scheduled = 0.0,
        momentum: _Scheduled = 0.0,
        centered: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class SGD(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.001,
        momentum: _Scheduled = 0.0,
        dampening: _Scheduled = 0.0,
        weight_decay: _Scheduled = 0.0,
        nesterov: bool = False,
        **options: Unpack[Options],
    ) -> None: ...
