"""The optimizer classes, one for each rule: `fu.AdamW` is `fastupdate/rules/adamw.py` with the arguments it declares.

Type checkers read optimizers.pyi, which scripts/stub.py writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature, findsource, getdoc, getsourcefile, signature
from pathlib import Path
from textwrap import fill
from types import MappingProxyType
from typing import Any, TypeVar

from fastupdate import rules
from fastupdate.arrays.numbers import real, switch
from fastupdate.arrays.place import Place
from fastupdate.engines import records
from fastupdate.optimizer import Optimizer
from fastupdate.partition import divided
from fastupdate.rules.emit import emit
from fastupdate.rules.rule import Flag, Hyper, Rule, declared, given_together, rule_of
from fastupdate.step.options import Options

T = TypeVar("T")
OTHERS = Parameter("others", Parameter.KEYWORD_ONLY, default=None)
PARAMS = (
    "arrays to update in place: one, a sequence, a mapping or a nesting of them, (name, array) pairs, or groups "
    '{"params": arrays, "lr": …}; float32 or float64'
)


def arguments(rule: Rule) -> dict[str, Any]:
    """What the class of a rule takes beside params and options, with the defaults, in the order that it declares."""
    aliases = {part: alias for alias, parts in rule.aliases.items() for part in parts}
    found: dict[str, Any] = {}
    for name, each in declared(rule.formula, (Hyper, Flag)).items():
        if name in aliases:
            found[aliases[name]] = (*found.get(aliases[name], ()), each.default)
        elif isinstance(each, Hyper):
            found[name] = each.default
        elif each.when is None:
            found[name] = False
    return found


def check_arguments(rule: Rule, values: Mapping[str, Any]) -> None:
    """Raises for the first of a rule's arguments that is wrong by itself, or beside the others."""
    problem = rule.check({name: _checked(rule, name, value) for name, value in values.items()})
    if problem:
        raise ValueError(f"[{rule.name}] {problem}")


def _checked(rule: Rule, name: str, value: Any) -> Any:
    """An argument as a truth value, a number, several numbers or a schedule."""
    place, parts = Place(rule.name, name), rule.aliases.get(name)
    if name in rule.flags:
        return switch(place, value)
    if parts is not None:
        together = zip(parts, given_together(place, parts, value), strict=True)
        return tuple(_checked(rule, part, number) for part, number in together)
    return value if callable(value) else real(place, value, rule.hypers[name])


def make(rule: Rule, module: str) -> type[Optimizer]:
    """The optimizer class of a rule, as if it had been written out in that module."""
    flags = {name for name in rule.flags if name in arguments(rule)}

    def construct(self: Optimizer, params: Any, values: dict[str, Any], options: dict[str, Any]) -> None:
        if values.pop("others", None) is not None:  # it makes a partition, before this is called
            raise TypeError(f"[{rule.name}] others: expected None in a subclass, received a rule (see fu.Partition)")
        check_arguments(rule, values)
        hypers = {name: value for name, value in values.items() if name not in flags}
        Optimizer.__init__(self, params, hypers, {name: values[name] for name in flags}, **options)

    if rule.matrix is None:
        return class_of(rule, Optimizer, module, page(rule), construct)
    return dividing(class_of(rule, Optimizer, module, f"{page(rule)}\n{OTHERS_ENTRY}", construct, OTHERS), divided)


def dividing(cls: type[T], divided: Callable[..., Any]) -> type[T]:
    """The class of a rule for matrices, which makes a partition if there is a rule for what is no matrix.

    divided(cls, others, params, arguments): that partition
    """

    def __new__(cls: type[T], params: Any = None, *args: Any, others: Any = None, **kwargs: Any) -> Any:  # noqa: N807
        if others is None:
            return object.__new__(cls)
        arguments = signature(cls.__init__).bind(None, params, *args, **kwargs).arguments
        del arguments["self"]
        options = arguments.pop("options", {})
        return divided(cls, others, arguments.pop("params"), {**arguments, **options})

    cls.__signature__ = signature(cls)  # type: ignore[attr-defined]
    cls.__new__ = __new__  # type: ignore[assignment,method-assign]
    return cls


def class_of(
    rule: Rule,
    base: type[T],
    module: str,
    doc: str,
    construct: Callable[..., None],
    *further: Parameter,
    defaults: Mapping[str, Any] = MappingProxyType({}),
    positional: Sequence[str] | None = None,
) -> type[T]:
    """A class with the arguments of a rule, and further ones; construct(self, params, values, options) takes them.

    Of the further ones, those without a default come before the rule's. defaults: of some of the rule's, instead of its
    own. positional: those that come first and may be given by position; all others go by name. None: those of the rule
    """
    given = {**arguments(rule), **defaults}.items()
    named = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=value) for name, value in given]
    leading = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in ("self", "params")]
    required = [each for each in further if each.default is Parameter.empty]
    optional = [each for each in further if each.default is not Parameter.empty]
    every = {each.name: each for each in (*required, *named, *optional)}
    if positional is not None:
        first = [every.pop(name).replace(kind=Parameter.POSITIONAL_OR_KEYWORD) for name in positional]
        rest = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in every.values()]
        every = {each.name: each for each in (*first, *rest)}
    taken = Signature([*leading, *every.values(), Parameter("options", Parameter.VAR_KEYWORD)])

    def __init__(*args: Any, **kwargs: Any) -> None:  # noqa: N807
        try:
            bound = taken.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{rule.formula.__name__}() {error}") from None
        bound.apply_defaults()
        values: dict[str, Any] = bound.arguments
        construct(values.pop("self"), values.pop("params"), options=values.pop("options"), values=values)

    name = rule.formula.__name__
    __init__.__signature__ = taken  # type: ignore[attr-defined]
    __init__.__qualname__ = f"{name}.__init__"
    __init__.__module__ = module
    body = {"rule": rule, "__init__": __init__, "__doc__": doc, "__module__": module, "__qualname__": name}
    return type(name, (base,), body)


def page(rule: Rule, params: str = PARAMS) -> str:
    """What help() shows: the rule's own page, then its arguments, then the options of all rules."""
    parts = {part: f"{alias}[{k}]" for alias, names in rule.aliases.items() for k, part in enumerate(names)}
    lines = [getdoc(rule.formula) or "", "", _entry("params", params)]
    for name, each in declared(rule.formula, (Hyper, Flag)).items():
        if isinstance(each, Hyper):
            text = f"{each.meaning}: {each.interval}, or a schedule; {each.default:g}"
            lines.append(_entry(parts.get(name, name), text))
        elif each.when is None:
            lines.append(_entry(name, each.meaning))
    return "\n".join([*lines, "", getdoc(Options) or ""])


def _entry(name: str, text: str) -> str:
    return fill(text, 116, initial_indent=f"{name:<15} ", subsequent_indent=" " * 16)


OTHERS_ENTRY = _entry(
    "others",
    "the rule of what is no matrix, as fu.AdamW.with_(lr=1e-3); or (pattern, rule), for what else is to go by it. "
    "The result is a fu.Partition",
)


def rule(formula: type) -> type[Optimizer]:
    """Makes an optimizer class of a rule of your own: a class like those in fastupdate/rules (see docs/own_rules.md).

        @fu.rule
        class Lion: …

    TypeError says what is missing from it, or with file and line what has no place in a rule.
    """
    if not isinstance(formula, type):
        raise TypeError(f"[rule] expected a class (docs/own_rules.md), received {formula!r}")
    found = rule_of(formula, native=False)
    _check_room(found)
    try:
        lines, _ = findsource(formula)
    except OSError:  # typed into an interpreter that keeps no text: compilers will see
        pass
    else:
        emit(Path(getsourcefile(formula) or "?"), formula.__name__, "".join(lines))
    cls = make(found, formula.__module__)
    cls.__qualname__ = formula.__qualname__
    return cls


def _check_room(rule: Rule) -> None:
    """What the records of a plan have room for (csrc/core/plan.h)."""
    prepared = rule.prepare(rule.defaults, 1)
    measuring = [(phase.measure.__name__, phase) for phase in rule.phases if phase.measure]
    sums = [(f"sums of {name}", len(phase.sums), records.MAX_SUMS) for name, phase in measuring]
    for what, count, most in (
        ("states", len(rule.states), records.MAX_STATES),
        ("hyperparameters", len(rule.hypers), records.MAX_HYPERS),
        ("scalars", len(prepared), records.MAX_SCALARS),
        *sums,
    ):
        if count > most:
            raise TypeError(f"[{rule.name}] {what}: expected at most {most}, received {count}")


CLASSES: Mapping[str, type[Optimizer]] = {
    found.formula.__name__: make(found, __name__) for found in rules.every().values()
}
globals().update(CLASSES)
__all__ = ["rule", *CLASSES]  # noqa: PLE0604
