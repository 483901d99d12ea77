"""What the package, an optimizer and a report show of themselves."""

from __future__ import annotations

import ast
import inspect
import json
import pydoc
import subprocess
import sys
from html.parser import HTMLParser
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from cases import CASES, Case

import fastupdate as fu
from fastupdate.step.options import Options


def weights(count: int = 2) -> dict[str, Any]:
    return {f"layer{k}": {"w": np.ones((3, 4), np.float32), "b": np.ones(4)} for k in range(count)}


def ones_like(tree: Any) -> Any:
    return {k: ones_like(v) for k, v in tree.items()} if isinstance(tree, dict) else np.full_like(tree, 0.5)


# -- the package ------------------------------------------------------------------------------------------------------


def test_dir_is_what_is_imported_for_users() -> None:
    """Also after every module has been imported; all of it is there."""
    import fastupdate.cli
    import fastupdate.saving.file  # noqa: F401

    tree = ast.parse(inspect.getsource(fu))
    named = {a.asname for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for a in node.names if a.asname}
    named |= {*fu.optimizers.__all__}
    named -= {"sharded", "torch"}  # which are imported when they are asked for: what they need may not be there
    assert named
    faces = {face for face, package in (("sharded", "mpi4py"), ("torch", "torch")) if find_spec(package)}
    assert dir(fu) == sorted(named | faces | {"__version__"})
    assert set(fu.__all__) == named
    assert all(hasattr(fu, name) for name in named)


@pytest.mark.parametrize("name", sorted(name for name in fu.__all__ if inspect.ismodule(getattr(fu, name))))
def test_modules_show_what_is_for_users(name: str) -> None:
    module = getattr(fu, name)
    assert dir(module) == sorted(module.__all__)
    assert not any(inspect.ismodule(getattr(module, each)) for each in dir(module))
    with pytest.raises(AttributeError, match=f"module 'fastupdate.{name}' has no attribute 'adamv'") as caught:
        module.adamv  # noqa: B018
    assert (caught.value.name, caught.value.obj) == ("adamv", module)  # by which Python finds what is like it


@pytest.mark.parametrize("name", ["AdamX", "__wrapped__", "numpy"])
def test_no_other_name(name: str) -> None:
    with pytest.raises(AttributeError, match=f"module 'fastupdate' has no attribute '{name}'"):
        getattr(fu, name)


def test_version_is_the_installed_one_and_costs_nothing_before() -> None:
    code = "import sys, fastupdate; print('importlib.metadata' in sys.modules); print(fastupdate.__version__)"
    loaded, version = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert loaded == "False"
    try:
        assert version == metadata.version("fastupdate")
    except metadata.PackageNotFoundError:
        assert version == "0+unknown"


# -- an optimizer -----------------------------------------------------------------------------------------------------


def shown(opt: fu.Optimizer) -> tuple[str, list[str], list[list[str]]]:
    """Title, lines and table of what a terminal shows; the columns of a table are two spaces apart."""
    title, *lines = repr(opt).splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith("  group "))
    assert all(line.startswith("  ") for line in lines)
    table = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines[start:]]
    return title, [line.strip() for line in lines[:start]], table


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_rule_is_shown(case: Case) -> None:
    opt = case.make(weights())
    title, lines, (head, row) = shown(opt)
    assert title == type(opt).__name__
    assert lines[0] == "4 tensors of float32 and float64, 32 elements"
    assert head[:4] == ["group", "tensors", "elements", "lr"]
    assert [float(cell) for cell in row[3:] if "(" not in cell] == [
        opt.groups[0][name] for name in head[3:] if name != "betas"
    ]


def test_table_of_groups() -> None:
    schedule = fu.schedules.warmup(fu.schedules.cosine(0.1, 1000), 10)
    groups = [
        {"params": "*.b", "weight_decay": 0.0, "lr": 0.5},
        {"params": "layer1.w", "lr": lambda t: 0.25, "l1": 1e-3},
    ]
    opt = fu.AdamW(weights(), lr=schedule, groups=groups, clip_norm=1.0, amsgrad=True, ema_decay=0.9)
    opt.step(ones_like(weights()))
    opt.freeze("layer0.*")
    _, lines, table = shown(opt)
    bytes_of_state = 4 * (2 * 12 * 4 + 2 * 4 * 8)
    assert lines[0] == "4 tensors of float32 and float64, 32 elements; 2 of the tensors frozen"
    assert lines[1] == f"{bytes_of_state} bytes of state (m, v, v_max, ema)"
    assert lines[2].startswith(f"backend {opt.stepper.backend.NAME}, ")
    assert lines[2].endswith("; 1 step taken")
    assert lines[3] == "amsgrad, clip_norm=1"
    assert table == [
        ["group", "tensors", "elements", "lr", "betas", "eps", "weight_decay", "l1", "ema_decay"],
        [
            "0: layer0.w",
            "1",
            "12",
            "warmup(schedule=cosine(start=0.1, steps=1000), steps=10)",
            "(0.9, 0.999)",
            "1e-08",
            "0.01",
            "0",
            "0.9",
        ],
        ["1: layer0.b, layer1.b", "2", "8", "0.5", "(0.9, 0.999)", "1e-08", "0", "0", "0.9"],
        ["2: layer1.w", "1", "12", "<lambda>", "(0.9, 0.999)", "1e-08", "0.01", "0.001", "0.9"],
    ]


@pytest.mark.parametrize(("threads", "expected"), [(None, "up to "), (1, "1 thread;"), (3, "3 threads;")])
def test_threads_are_named(threads: int | None, expected: str) -> None:
    fu.set_num_threads(threads)
    assert expected in repr(fu.SGD([np.ones(3)]))


def test_many_groups_and_tensors_stay_short() -> None:
    params = weights(200)
    opt = fu.SGD(params, lr=0.1, groups=[{"params": f"layer{k}.*", "lr": 0.1 * k} for k in range(100)])
    text = repr(opt)
    assert text.endswith("\n  … and 89 more groups")
    assert len(text.splitlines()) < 20
    assert max(map(len, text.splitlines())) < 120


class Cells(HTMLParser):
    """The text in each cell, and the tags that are open."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1] in ("td", "th"):
            self.cells.append(data)


def test_notebook_shows_the_same_table() -> None:
    """Names are the user's, and no HTML."""
    opt = fu.SGD({"<b>&": np.ones(3), "{0}": np.ones(3)}, lr=lambda t: 0.1)
    parser = Cells()
    parser.feed(opt._repr_html_())
    parser.close()
    assert parser.open == []
    assert parser.cells == [cell for row in shown(opt)[2] for cell in row]
    assert "0: <b>&, {0}" in parser.cells


def test_notebook_shows_every_rule_of_a_partition() -> None:
    opt = fu.Muon({"<w>": np.ones((3, 3)), "b": np.ones(3)}, others=fu.SGD)
    parser = Cells()
    parser.feed(opt._repr_html_())
    parser.close()
    assert parser.open == []
    assert parser.cells == [cell for part in opt.parts for row in shown(part)[2] for cell in row]
    assert "<b>Partition of 2 rules</b>" in opt._repr_html_()


def test_showing_changes_nothing_and_calls_nothing() -> None:
    """A schedule is a user's function: it is asked for values by steps alone. No lock is waited for."""
    asked = []

    def schedule(step: int) -> float:
        asked.append(step)
        return 0.1

    opt = fu.SGD([np.ones(3)], lr=schedule, momentum=0.9, ema_decay=0.5)
    count = len(asked)
    with opt.ema_weights():
        assert "schedule" in repr(opt)
    assert len(asked) == count


def test_half_made_optimizer_is_shown() -> None:
    """As a debugger does where __init__ has raised."""
    assert repr(fu.SGD.__new__(fu.SGD)).startswith("<fastupdate.")


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (fu.schedules.cosine(0.1, 10, end=0.0), "cosine(start=0.1, steps=10)"),
        (fu.schedules.warmup(lambda t: 0.1, 10), "warmup(schedule=<lambda>, steps=10)"),
        (fu.schedules.join([0.1] * 9, range(1, 9)), "join(schedules=[constant(value=0.1), constant(value=0.1), c…"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_schedules_are_shown_briefly(schedule: Any, expected: str) -> None:
    assert shown(fu.SGD([np.ones(3)], lr=schedule))[2][1][3] == expected


def test_monitors_and_scales_show_their_numbers_by_name() -> None:
    scale, monitor = fu.LossScale(8, growth_interval=10), fu.Monitor(every=1, keep=9)
    assert repr(scale) == "LossScale(init=8, growth_factor=2, backoff_factor=0.5, growth_interval=10)"
    assert repr(monitor) == "Monitor(every=1, keep=9) with records: 0"
    monitor(fu.SGD([np.ones(3)], monitor=True).step([np.ones(3)]))
    assert repr(monitor) == "Monitor(every=1, keep=9) with records: 1, the last of step 1"


# -- a report ---------------------------------------------------------------------------------------------------------

NAN = float("nan")


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (fu.Report(3, 0.1), "Report(step=3, lr=0.1)"),
        (fu.Report(12345, 1 / 3), "Report(step=12345, lr=0.3333)"),
        (
            fu.Report(1, 1e-3, 13.438750142, 0.07441167, 0),
            "Report(step=1, lr=0.001, grad_norm=13.44, clip_factor=0.07441, nonfinite=0)",
        ),
        (
            fu.Report(0, 0.1, NAN, 1.0, 3, "no good"),
            "Report(step=0, lr=0.1, grad_norm=nan, clip_factor=1, nonfinite=3, skipped=True, reason=no good)",
        ),
        (
            fu.Report(1, np.float64(0.25), np.float64(1e30), np.float64(1), np.int64(2)),
            "Report(step=1, lr=0.25, grad_norm=1e+30, clip_factor=1, nonfinite=2)",
        ),
    ],
)
def test_report_reads_in_order(report: fu.Report, expected: str) -> None:
    assert repr(report) == expected


@pytest.mark.parametrize(
    "options",
    [{}, {"clip_norm": 0.1}, {"nonfinite": "skip"}, {"monitor": True}, {"monitor": True, "clip_norm": 0.1}],
    ids=str,
)
def test_report_as_json(options: dict[str, Any]) -> None:
    """Plain numbers under the report's names; the statistics are rows."""
    params = weights()
    report = fu.AdamW(params, **options).step(ones_like(params))
    found = json.loads(json.dumps(report.as_dict()))
    table = report.tensors
    assert list(found) == ["step", "lr", "grad_norm", "clip_factor", "nonfinite", "skipped", "reason", "tensors"]
    assert all(found[name] == getattr(report, name) for name in list(found)[:-1])
    if table is None:
        assert found["tensors"] is None
        assert "tensors" not in repr(report)
        return
    assert repr(report).endswith(", tensors=<4 rows>)")
    assert [row["name"] for row in found["tensors"]] == ["layer0.w", "layer0.b", "layer1.w", "layer1.b"]
    for name in table.dtype.names or ():
        np.testing.assert_array_equal([row[name] for row in found["tensors"]], table[name])


# -- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", fu.rules.names())
def test_help_describes_every_argument(name: str) -> None:
    cls = fu.rules.get(name)
    described = {line.split()[0] for line in pydoc.getdoc(cls).splitlines() if line[:1].strip()}
    arguments = set(inspect.signature(cls).parameters) - {"options"}
    assert arguments <= {word.partition("[")[0] for word in described}
    assert set(Options.__annotations__) <= described
    assert max(map(len, pydoc.getdoc(cls).splitlines())) <= 120


@pytest.mark.parametrize("name", sorted(set(fu.schedules.__all__) - {"Schedule"}))
def test_signatures_of_schedules_are_readable(name: str) -> None:
    shown = str(inspect.signature(getattr(fu.schedules, name)))
    assert " at 0x" not in shown
    assert "Annotated" not in shown
    assert "float" in shown or "Schedule" in shown


class Asked:
    """A step that notes which of its figures were asked for."""

    table = None

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.asked.append(name)
        return {"skipped": False, "reason": None, "nonfinite": 0}.get(name, 1.0)


def test_a_report_asks_a_step_of_a_device_for_each_figure_once() -> None:
    step = Asked()
    report = fu.Report.of(step)
    assert type(report) is fu.Report
    assert not step.asked
    assert (report.lr, report.lr, report.skipped) == (1.0, 1.0, False)
    assert step.asked == ["lr", "skipped"]
    assert report.as_dict()["grad_norm"] == 1.0
    assert len(step.asked) == len(set(step.asked)) == 7
    with pytest.raises(AttributeError, match="no attribute 'losses'"):
        _ = report.losses  # type: ignore[attr-defined]


@pytest.mark.parametrize("bound", [True, False])
def test_every_step_reports_by_the_one_class(bound: bool) -> None:
    opt = fu.SGD([np.ones(3)], lr=0.1)
    opt.bind([np.ones(3)])
    for k in range(3):
        report = opt.step() if bound else opt.step([np.ones(3)])
        assert type(report) is fu.Report
        assert report.as_dict() == fu.Report(k + 1, 0.1).as_dict()
