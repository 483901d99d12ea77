"""What an optimizer shows of itself, as text and in a notebook: what it updates, and its groups as a table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from html import escape
from typing import Any, NamedTuple

from fastupdate.arrays import device
from fastupdate.engines import threads
from fastupdate.engines.records import STEPS
from fastupdate.rules.rule import Rule
from fastupdate.schedules import Schedule
from fastupdate.schedules.drawing import brief
from fastupdate.step.hypers import FROZEN_UNTIL, SHARED, Group
from fastupdate.step.options import Settings
from fastupdate.step.stepper import Stepper
from fastupdate.step.tensors import STATE, Item

MOST_GROUPS = 12  # that are shown
LONGEST = 30  # characters of a cell
LONGEST_SCHEDULE = 60
NEUTRAL: dict[str, float] = {name: value for name, (value, _) in SHARED.items()} | {FROZEN_UNTIL: 0.0}
ELSEWHERE = {"rule", "groups", "state", "backend", *SHARED}  # settings that the other lines and the table show


class Shown(NamedTuple):
    """The facts about an optimizer."""

    title: str
    lines: list[str]
    head: list[str]
    rows: list[list[str]]  # one for each group; the first cell is words, the others are mostly numbers
    rest: list[str]


def text(name: str, stepper: Stepper) -> str:
    """For a terminal. The optimizer is called `name`."""
    shown = _shown(name, stepper)
    table = [shown.head, *shown.rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    aligned = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in table
    ]
    lines = [*shown.lines, *aligned, *shown.rest]
    return "\n  ".join([shown.title, *lines])


def html(name: str, stepper: Stepper) -> str:
    """For a notebook, which has its own style for tables."""
    shown = _shown(name, stepper)
    lines = "<br>".join(map(escape, shown.lines))
    rows = "".join(_html_row(row, "td") for row in shown.rows)
    rest = "".join(f"<div>{escape(line)}</div>" for line in shown.rest)
    return (
        f"<div><b>{escape(shown.title)}</b><br>{lines}</div>"
        f"<table><thead>{_html_row(shown.head, 'th')}</thead><tbody>{rows}</tbody></table>{rest}"
    )


def _html_row(cells: Iterable[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"


def _shown(name: str, stepper: Stepper) -> Shown:
    """Reads what is there: it waits for no lock, calls no schedule and fetches nothing from a device."""
    groups = stepper.hypers.groups
    columns = _columns(stepper.rule, groups)
    rows = [_row(stepper.items, k, group, columns) for k, group in enumerate(groups[:MOST_GROUPS])]
    rest = [f"… and {len(groups) - MOST_GROUPS} more groups"] if len(groups) > MOST_GROUPS else []
    options = [*(flag for flag, on in stepper.flags.items() if on), *_options(stepper.settings)]
    lines = [_size(stepper.items), _state(stepper.items), _place(stepper), *([", ".join(options)] if options else [])]
    return Shown(name, lines, ["group", "tensors", "elements", *columns], rows, rest)


def _size(items: list[Item]) -> str:
    types = " and ".join(sorted({item.array.dtype.name for item in items}))
    frozen = sum(item.frozen for item in items)
    return (
        f"{_count(len(items), 'tensor')} of {types}, {_count(sum(item.array.size for item in items), 'element')}"
        f"{f'; {frozen} of the tensors frozen' if frozen else ''}"
    )


def _state(items: list[Item]) -> str:
    """What is kept beside the parameters: how much, and under which names."""
    sizes: dict[str, int] = {}
    for item in items:
        for kind, array in item.slots.items():
            name = kind.removeprefix(STATE)
            sizes[name] = sizes.get(name, 0) + array.nbytes
    return f"{_bytes(sum(sizes.values()))} of state ({', '.join(sizes)})" if sizes else "no state"


def _place(stepper: Stepper) -> str:
    where = device.device_of(stepper.items[0].array)
    count = threads.get_num_threads()
    runs = f"{'' if threads.is_fixed() else 'up to '}{_count(count, 'thread')}"
    return (
        f"backend {stepper.backend.NAME}, {runs if where is None else device.location(where)}; "
        f"{_count(int(stepper.clock[STEPS]), 'step')} taken"
    )


def _options(settings: Settings) -> list[str]:
    """The options that are not as they are by default."""
    given = {field.name: getattr(settings, field.name) for field in fields(settings) if field.name not in ELSEWHERE}
    defaults = {field.name: field.default for field in fields(settings)}
    return [f"{name}={_value(value)}" for name, value in given.items() if value != defaults[name]]


def _columns(rule: Rule, groups: list[Group]) -> list[str]:
    """The rule's hyperparameters, pairs by their common name; of those that every rule has, what is in use."""
    used = [
        name
        for name in groups[0]
        if name != "params" and (name not in NEUTRAL or any(group[name] != NEUTRAL[name] for group in groups))
    ]
    for alias, parts in rule.aliases.items():
        if set(parts) <= set(used):
            used[used.index(parts[0])] = alias
            used = [name for name in used if name not in parts]
    return used


def _row(items: list[Item], number: int, group: Group, columns: list[str]) -> list[str]:
    elements = sum(item.array.size for item in items if item.row == number)
    names = _shortened(f"{number}: {', '.join(group['params'][:LONGEST])}")
    return [names, f"{len(group['params']):,}", f"{elements:,}", *(_value(group[name]) for name in columns)]


def _value(value: Any) -> str:
    """A number, a pair of them, a word, or a schedule, briefly; a plain function is shown by its name."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_value, value))})"
    if isinstance(value, Schedule):
        return _shortened(brief(value), LONGEST_SCHEDULE)
    return _shortened(getattr(value, "__name__", None) or repr(value))


def _shortened(words: str, longest: int = LONGEST) -> str:
    return words if len(words) <= longest else f"{words[: longest - 1]}…"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _bytes(count: int) -> str:
    scale, unit = next((pair for pair in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if count >= pair[0]), (1, "bytes"))
    return f"{count / scale:.4g} {unit}"
