"""The numba-cuda fallback leaves the bits of the CPU behind, in numba-cuda's simulator."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from cases import (
    CASES,
    EVERY_CASE,
    EVERY_PHASED_CASE,
    FIRST_CASES,
    MIXED_OPTIONS,
    SUM_OPTIONS,
    Case,
    arrays_of,
    assert_same_bits,
    cases_of,
    random_arrays,
)
from peers import peer
from storage import NARROW, every_code, narrow

import fastupdate as fu
from fastupdate import rules
from fastupdate.arrays import device, frameworks
from fastupdate.engines import choose

HERE = Path(__file__).parent
STEPS = 2
WEIGHTS = 7  # the seed of the parameters; those of the gradients follow it
SHAPES: list[tuple[int, ...]] = [(1,), (33,), (0, 3), (5, 7), (1025,)]
SHORT = SHAPES[:-1]  # the simulator takes seconds for a thousand elements
MATRICES: list[tuple[int, ...]] = [(35, 3), (2, 33, 2), (0, 3), (), (1, 1026)]  # about chunks of rows, and blocks

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "norms": {"clip_norm": 3.0, "nonfinite": "skip", "monitor": True},
    **MIXED_OPTIONS,
    **SUM_OPTIONS,
    "masked": {"optimism": 0.3, "cautious": True, "monitor": True},
    "raise": {"nonfinite": "raise"},
    "edges": {"clip_value": 0.8, "l1": 1e-3, "shadow": "bfloat16", "monitor": True},
    "proximal edges": {"l1": 1e-3, "l1_mode": "proximal", "shadow": "float16", "monitor": True},
}  # fmt: skip


class Run(NamedTuple):
    """One optimizer's steps: what it is, on what, and how it gets its gradients."""

    case: Case
    options: str
    dtypes: str  # of the tensors, in turn
    shapes: list[tuple[int, ...]]
    gradients: str = "each step"

    def __str__(self) -> str:
        return f"{self.case}-{self.options}-{self.dtypes}-{self.gradients}-{len(self.shapes)}".replace(" ", "_")


GRADIENTS = ["bound", "accumulated", "samples", "transposed"]
CODES = {f"{kind} codes": kind for kind in NARROW}  # a sample of them, those of subnormal numbers among it
STILL = Case("sgd", "still", {"lr": 0.0})  # weights stay, so that their copies are of chosen values
# Where rounding to bfloat16 or float16 turns: ties, overflow, the smallest subnormal.
TURNS = [1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-11, 1 + 3 * 2**-11, 65519.996, 65520.0, 2**-25, -(2.0**-24.5)]
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-38, 3e38, *TURNS])
ADAMW = next(case for case in CASES if case.rule == "adamw")
SUMMING = [case for case in EVERY_PHASED_CASE if rules.get(case.rule).rule.matrix is None]


@dataclass(frozen=True)
class Own(Case):
    """A rule of one's own with the text of the library's."""

    def __str__(self) -> str:
        return f"own {super().__str__()}"

    def make(self, params: Any, **options: Any) -> fu.Optimizer:
        import test_phases

        rule = getattr(test_phases, f"Own{rules.get(self.rule).__name__}")
        return rule(params, **{**self.kwargs, **options})


LAMB, ADAFACTOR, PRODIGY = (cases_of(name)[0] for name in ("lamb", "adafactor", "prodigy"))
OWN_CASES = [Own(case.rule, case.name, case.kwargs) for case in (LAMB, ADAFACTOR, PRODIGY)]
RUNS = [
    *(Run(case, "plain", dtype, SHORT) for case in CASES for dtype in ("f4", "f8")),
    *(Run(case, "plain", "f4", SHORT) for case in EVERY_CASE if case not in CASES),
    *(Run(case, name, "f4", SHORT) for case in FIRST_CASES for name in ("norms", "stages", "units", "masked")),
    *(Run(ADAMW, name, dtype, SHORT) for name, dtype in (("norms", "f8"), ("stages", "f8"), ("raise", "f4"))),
    *(Run(ADAMW, "stages", "f4f8", SHORT, gradients) for gradients in GRADIENTS),
    *(Run(ADAMW, name, dtype, SHAPES[3:]) for name in ("norms", "units") for dtype in ("f4", "f8")),
    *(Run(case, "edges", "f4", [(len(SPECIAL) ** 2,)], "special values") for case in (ADAMW, STILL)),
    Run(STILL, "proximal edges", "f4", [(len(SPECIAL) ** 2,)], "special values"),
    *(Run(ADAMW, name, "f4", SHORT, kind) for kind in NARROW for name in ("plain", "stages", "units")),
    *(Run(STILL, "stages", "f4", [(662,)], codes) for codes in CODES),
    *(Run(case, "plain", "f4", SHORT) for case in SUMMING),
    *(Run(case, name, "f4f8", SHORT) for case in (LAMB, ADAFACTOR, PRODIGY) for name in ("stages", "units")),
    *(Run(case, "sums", "f4", SHORT) for case in (LAMB, ADAFACTOR, ADAMW)),
    Run(ADAMW, "hyperball", "f8f4", SHORT),
    *(Run(case, "plain", "f4", MATRICES) for case in (LAMB, ADAFACTOR, cases_of("sm3")[0])),
    Run(ADAFACTOR, "sums", "f4", MATRICES),
    *(Run(case, "norms", "f4f8", SHORT) for case in OWN_CASES),
]


def tensors(seed: int, run: Run) -> list[np.ndarray]:
    """A tensor of each shape, of the run's dtypes in turn; special values come in all pairs of weight and gradient."""
    dtypes = [run.dtypes[k : k + 2] for k in range(0, len(run.dtypes), 2)]
    if run.gradients == "special values":
        pairs = np.meshgrid(SPECIAL, SPECIAL, indexing="ij")
        return [pairs[0 if seed == WEIGHTS else 1].ravel().astype(run.dtypes)]
    flat = random_arrays(seed, [int(np.prod(shape)) for shape in run.shapes], np.float64)
    shaped = [a.reshape(shape) for a, shape in zip(flat, run.shapes, strict=True)]
    return [a.astype(dtypes[k % len(dtypes)]) for k, a in enumerate(shaped)]


def take_steps(run: Run, opt: Any, place: Callable[[np.ndarray], Any]) -> Iterator[Any]:
    """The steps of a run, each with its gradients; yields the reports."""
    every = [tensors(WEIGHTS + 1 + k, run) for k in range(STEPS)]
    if run.gradients == "bound":
        opt.bind([place(g) for g in every[0]])
        for _ in range(STEPS):
            yield opt.step()
    elif run.gradients == "accumulated":
        for grads in every:
            opt.accumulate([place(g) for g in grads])
        yield opt.step()
    elif run.gradients == "samples":
        stacked = [np.stack(samples) for samples in zip(*every, strict=True)]
        yield opt.step([place(g) for g in stacked], reduce="mean", loss_scale=4.0)
    elif run.gradients in CODES:
        opt.accumulate([place(every_code(CODES[run.gradients])[::99])])
        yield opt.step()
    elif run.gradients in NARROW:
        for grads in every:
            yield opt.step([place(narrow(g, run.gradients)) for g in grads])
    else:
        order = "F" if run.gradients == "transposed" else "C"
        for grads in every:
            yield opt.step([place(np.array(g, order=order)) for g in grads])


def outcome(run: Run, place: Callable[[np.ndarray], Any], backend: str | None) -> dict[str, Any]:
    """Everything that the steps of a run leave behind."""
    params = [np.array(a, order="F" if run.gradients == "transposed" else "C") for a in tensors(WEIGHTS, run)]
    opt = run.case.make([place(p) for p in params], backend=backend, **OPTIONS[run.options])
    left: dict[str, Any] = {}
    for step, report in enumerate(take_steps(run, opt, place)):
        left[f"report {step}"] = np.array([report.step, report.lr, report.clip_factor, report.grad_norm or 0.0])
        for name in () if report.tensors is None else report.tensors.dtype.names[1:]:
            left[f"statistics {step} {name}"] = report.tensors[name]
    for kind, arrays in arrays_of(opt).items():
        for k, array in enumerate(arrays):
            left[f"{kind} {k}"] = array.copy()
    return left


def outcomes(runs: list[Run], place: Callable[[np.ndarray], Any], backend: str) -> dict[str, Any]:
    """The outcomes of several runs, keyed by run and array: what a process with the simulator hands over."""
    return {f"{run}/{name}": a for run in runs for name, a in outcome(run, place, backend).items()}


def in_simulator(arguments: list[str]) -> str:
    """What a Python process prints in which numba-cuda simulates a device."""
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """What the simulator leaves behind in all runs, a process for each processor having done its share of them."""
    peer("numba_cuda")
    folder, share = tmp_path_factory.mktemp("simulated"), os.cpu_count() or 1
    script, paths = str(HERE / "simulated_cuda.py"), [folder / f"{k}.npz" for k in range(share)]
    with ThreadPoolExecutor(share) as pool:
        list(pool.map(lambda k: in_simulator([script, str(paths[k]), str(k), str(share)]), range(share)))
    found = {}
    for path in paths:
        with np.load(path) as part:
            found.update(part)
    return found


@pytest.mark.peer
@pytest.mark.parametrize("run", RUNS, ids=str)
def test_simulator_leaves_the_bits_of_the_cpu(run, simulated):
    expected = outcome(run, lambda array: array, None)
    actual = {name.partition("/")[2]: a for name, a in simulated.items() if name.startswith(f"{run}/")}
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        assert_same_bits(actual[name], values, name)


REFUSALS = """
import numpy as np, fastupdate as fu, simulated_cuda
simulated_cuda.install()
place = lambda n, value=0.0, stream=1: simulated_cuda.SimulatedArray(np.full(n, value, np.float32), stream)
p = place(3)
opt = fu.AdamW([p], nonfinite="raise")
opt.step([place(3, 1.0, stream=5)])
print("waited for", simulated_cuda.waits)
before = p.values.tobytes()
for act in (lambda: opt.step([place(3, np.nan)]), lambda: opt.before_replay(), lambda: opt.step([place(2)])):
    try:
        act()
    except Exception as error:
        print(type(error).__name__, error)
print(opt.step_count, p.values.tobytes() == before)
"""


@pytest.mark.peer
def test_refusals_in_the_simulator():
    peer("numba_cuda")
    assert in_simulator(["-W", "ignore", "-c", REFUSALS]).splitlines() == [
        "waited for [5, 5]",  # before the gradients are looked at, and before the step
        "FloatingPointError [adamw] grads[0]: expected finite values, received 3 that are not",
        "TypeError [adamw] before_replay: expected a step on the backend 'cuda' of a rule that multiplies no "
        "matrices, received 'numba-cuda'",
        "ValueError [adamw] grads[0]: expected shape (3,), received shape (2,)",
        "1 True",
    ]


OUTLIERS = """
import numpy as np, fastupdate as fu, simulated_cuda
simulated_cuda.install()
for place, backend in ((simulated_cuda.SimulatedArray, "numba-cuda"), (lambda a: a, None)):
    p = place(np.full((2, 3), 0.5, np.float32))
    opt = fu.AdamW([p], outliers=(4, 10), clip_unit_norm=0.1, backend=backend)
    scales = [1.0, 1.2, 0.9, 1.1, 0.8, 1.0, 1.1, 0.9, 1.2, 1.0, 50.0, 1.0]
    reports = [opt.step([place(np.full((2, 3), 0.1 * x, np.float32))]) for x in scales]
    print([k for k, report in enumerate(reports) if report.skipped], opt.step_count, getattr(p, "values", p).tobytes())
"""


LARGE = """
import numpy as np, fastupdate as fu, simulated_cuda
simulated_cuda.install()
for option in ("clip_norm", "clip_tensor_norm", "clip_unit_norm"):
    for dtype, size in ((np.float32, 3e38), (np.float64, 2e200)):
        for place, backend in ((simulated_cuda.SimulatedArray, "numba-cuda"), (lambda a: a, None)):
            p = place(np.zeros((2, 3), dtype))
            fu.SGD([p], lr=1.0, backend=backend, **{option: 1e-5}).step([place(np.full((2, 3), size, dtype))])
            print(getattr(p, "values", p).any(), getattr(p, "values", p).tobytes())
"""


@pytest.mark.peer
def test_large_gradients_in_the_simulator():
    peer("numba_cuda")
    lines = in_simulator(["-W", "ignore", "-c", LARGE]).splitlines()
    assert len(lines) == 12
    assert lines[::2] == lines[1::2]
    assert all(line.startswith("True ") for line in lines)


PRODUCTS = """
import numpy as np, fastupdate as fu, simulated_cuda
simulated_cuda.install()
simulated_cuda.compute()
for rule in (fu.Muon, fu.NorMuon, fu.SOAP):
    for place, backend in ((simulated_cuda.SimulatedArray, "numba-cuda"), (lambda a: a, None)):
        params, *steps = (np.random.default_rng(k).standard_normal((5, 7)).astype(np.float32) for k in range(3))
        params = place(params)
        opt = rule([params], lr=0.1, weight_decay=0.1, others=None, backend=backend)
        for grads in steps:
            opt.step([place(grads)])
        print(getattr(params, "values", params).tobytes())
"""


@pytest.mark.peer
def test_rules_of_matrices_in_the_simulator():
    """Phases around products of matrices, which the arrays' own library makes, their device being current."""
    peer("numba_cuda")
    lines = in_simulator(["-W", "ignore", "-c", PRODUCTS]).splitlines()
    assert len(set(lines)) == 3
    assert lines[::2] == lines[1::2]


@pytest.mark.peer
def test_outliers_in_the_simulator():
    peer("numba_cuda")
    there, host = in_simulator(["-W", "ignore", "-c", OUTLIERS]).splitlines()
    assert there.startswith("[10] 11 ")
    assert there == host


# -- which backend ----------------------------------------------------------------------------------------------------


@pytest.fixture
def like(monkeypatch: pytest.MonkeyPatch) -> device.DeviceArray:
    """A device array's header. The native backend is one in name only, and nothing has been announced."""
    peer("numba_cuda")
    native = ModuleType("fastupdate.engines.cuda")
    native.Backend = lambda framework, number: SimpleNamespace(NAME="cuda")  # type: ignore[attr-defined]
    monkeypatch.setattr("fastupdate.engines.cuda", native, raising=False)
    monkeypatch.setitem(sys.modules, "fastupdate.engines.cuda", native)
    choose._announce.cache_clear()
    return device.header(None, np.zeros(3).__array_interface__, frameworks.CuPy(), 0)


ADAM = fu.Adam.rule
OWN = replace(ADAM, name="own", native=False)
CHOICES = {  # rule, backend asked for, is cuda there, is numba-cuda there → backend, is it announced
    "native": (ADAM, None, True, True, "cuda", False),
    "fallback": (ADAM, None, False, True, "numba-cuda", True),
    "forced": (ADAM, "numba-cuda", True, True, "numba-cuda", False),
    "native forced": (ADAM, "cuda", True, True, "cuda", False),
    "rule of one's own": (OWN, None, True, True, "numba-cuda", False),
}
MISSING = {
    "native": (ADAM, "cuda", "cuda: none here$"),
    "numba-cuda": (ADAM, "numba-cuda", "available: numba-cuda: none here$"),
    "both": (ADAM, None, "cuda: none here; numba-cuda: none here$"),
    "own": (OWN, "cuda", "rules of your own run through numba-cuda$"),
}


def there_are(monkeypatch: pytest.MonkeyPatch, cuda: bool, numba_cuda: bool) -> None:
    for name, there in (("cuda", cuda), ("numba-cuda", numba_cuda)):
        monkeypatch.setitem(choose.DEVICE_PROBLEMS, name, lambda there=there: None if there else "none here")


@pytest.mark.peer
@pytest.mark.parametrize(
    ("rule", "requested", "cuda", "numba_cuda", "chosen", "announced"), CHOICES.values(), ids=CHOICES
)
def test_choice(rule, requested, cuda, numba_cuda, chosen, announced, like, monkeypatch):
    there_are(monkeypatch, cuda, numba_cuda)
    for expected in (announced, False):  # once
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            backend = choose.choose(rule, requested, like)
        name = backend.NAME
        assert name == chosen
        assert [str(w.message) for w in caught] == ["fastupdate runs on numba-cuda: none here"] * expected


@pytest.mark.peer
@pytest.mark.parametrize(("rule", "requested", "message"), MISSING.values(), ids=MISSING)
def test_missing_backends(rule, requested, message, like, monkeypatch):
    there_are(monkeypatch, False, False)
    with pytest.raises(RuntimeError, match=message):
        choose.choose(rule, requested, like)


def test_host_arrays_stay_on_the_host():
    expected = r"backend: expected arrays on a CUDA device for 'numba-cuda', received host memory"
    with pytest.raises(ValueError, match=expected):
        fu.Adam([np.zeros(3)], backend="numba-cuda")


def test_info_lists_it():
    assert "backend numba-cuda" in fu.info()
