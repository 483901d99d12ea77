"""What schedules refuse, by name, and their picture."""

import math
import sys

import numpy as np
import pytest
from peers import peer
from schedule_cases import SAMPLES

from fastupdate import schedules as fs

NAN, INF = math.nan, math.inf
ERRORS = [
    (lambda: fs.constant(NAN), ValueError, "[constant] value: expected a finite number, received nan"),
    (lambda: fs.constant("1"), TypeError, "[constant] value: expected a finite number, received '1'"),
    (lambda: fs.constant(True), TypeError, "[constant] value: expected a finite number, received True"),
    (lambda: fs.cosine(1, steps=-3), ValueError, "[cosine] steps: expected an integer ≥ 1, received -3"),
    (lambda: fs.cosine(1, steps=10.0), TypeError, "[cosine] steps: expected an integer ≥ 1, received 10.0"),
    (lambda: fs.cosine(INF, steps=3), ValueError, "[cosine] start: expected a finite number, received inf"),
    (lambda: fs.linear(1, 5, NAN), ValueError, "[linear] end: expected a finite number, received nan"),
    (
        lambda: fs.polynomial(1, 5, power=0),
        ValueError,
        "[polynomial] power: expected a finite number > 0, received 0",
    ),
    (lambda: fs.step_decay(1, 0.5, 0), ValueError, "[step_decay] every: expected an integer ≥ 1, received 0"),
    (lambda: fs.step_decay(1, -1, 5), ValueError, "[step_decay] drop: expected a finite number > 0, received -1"),
    (
        lambda: fs.multi_step(1, [5, 5]),
        ValueError,
        "[multi_step] milestones: expected strictly increasing integers ≥ 1, received (5, 5)",
    ),
    (
        lambda: fs.multi_step(1, 5),
        TypeError,
        "[multi_step] milestones: expected strictly increasing integers ≥ 1, received 5",
    ),
    (
        lambda: fs.exponential(1),
        ValueError,
        "[exponential] rate, gamma: expected exactly one of the two, received (None, None)",
    ),
    (
        lambda: fs.exponential(1, rate=1, gamma=0.5),
        ValueError,
        "[exponential] rate, gamma: expected exactly one of the two, received (1, 0.5)",
    ),
    (lambda: fs.exponential(1, rate=NAN), ValueError, "[exponential] rate: expected a finite number, received nan"),
    (
        lambda: fs.exponential(1, gamma=0),
        ValueError,
        "[exponential] gamma: expected a finite number > 0, received 0",
    ),
    (
        lambda: fs.cosine_restarts(1, 5, factor=1.5),
        TypeError,
        "[cosine_restarts] factor: expected an integer ≥ 1, received 1.5",
    ),
    (lambda: fs.one_cycle(1, 10, 0.1), ValueError, "[one_cycle] pct_start: expected above 1/steps = 0.1, received 0.1"),
    (lambda: fs.one_cycle(1, 10, 1), ValueError, "[one_cycle] pct_start: expected a number in [0, 1), received 1"),
    (
        lambda: fs.one_cycle(1, 10, kind="cos"),
        ValueError,
        "[one_cycle] kind: expected one of linear, cosine, exponential, received 'cos'; did you mean 'cosine'?",
    ),
    (lambda: fs.inverse_sqrt(1, 0), ValueError, "[inverse_sqrt] warmup: expected an integer ≥ 1, received 0"),
    (
        lambda: fs.warmup_stable_decay(1, -1, 2, 3),
        ValueError,
        "[warmup_stable_decay] warmup: expected an integer ≥ 0, received -1",
    ),
    (
        lambda: fs.warmup_stable_decay(1, 1, 2, 3, kind="exponential"),
        ValueError,
        "[warmup_stable_decay] end: expected a number above 0 for kind='exponential', received 0.0",
    ),
    (
        lambda: fs.warmup(1, 5, kind="exponential"),
        ValueError,
        "[warmup] start: expected a number above 0 for kind='exponential', received 0.0",
    ),
    (
        lambda: fs.warmup("1", 5),
        TypeError,
        "[warmup] schedule: expected a schedule, a function of the step or a number, received '1'",
    ),
    (lambda: fs.warmup(NAN, 5), ValueError, "[warmup] schedule: expected a finite number, received nan"),
    (
        lambda: fs.join([1, None], [5]),
        TypeError,
        "[join] schedules: expected a schedule, a function of the step or a number, received None",
    ),
    (
        lambda: fs.warmup(lambda step: NAN, 5)(7),
        ValueError,
        "[schedules] <lambda>(2): expected a finite number, received nan",
    ),
    (
        lambda: fs.scale(lambda step: "1", 5)(7),
        TypeError,
        "[schedules] <lambda>(7): expected a finite number, received '1'",
    ),
    (lambda: fs.clip(1.0), ValueError, "[clip] low, high: expected a floor, a ceiling or both, received neither"),
    (lambda: fs.clip(1.0, low=2, high=1), ValueError, "[clip] low: expected at most high = 1.0, received 2.0"),
    (lambda: fs.clip(1.0, low=NAN), ValueError, "[clip] low: expected a finite number, received nan"),
    (
        lambda: fs.cyclic(0.1, 1, 5, mode="square"),
        ValueError,
        "[cyclic] mode: expected one of triangular, triangular2, exp_range, received 'square'",
    ),
    (lambda: fs.cyclic(0.1, 1, 5, 0), ValueError, "[cyclic] down: expected an integer ≥ 1, received 0"),
    (lambda: fs.inverse_time(1, -1), ValueError, "[inverse_time] rate: expected a finite number ≥ 0, received -1"),
    (
        lambda: fs.one_cycle(1, 10, 0.6, three_phase=True),
        ValueError,
        "[one_cycle] pct_start: expected below 0.55 for three phases, received 0.6",
    ),
    (
        lambda: fs.swa(0.1, 5, 0, kind="exponential"),
        ValueError,
        "[swa] value: expected a number above 0 for kind='exponential', received 0.0",
    ),
    (
        lambda: fs.scale(1, 5).load_state_dict({"value": 1}),
        ValueError,
        "[scale] state: expected an empty mapping, received ['value']",
    ),
    (lambda: fs.scale(fs.constant(1), NAN), ValueError, "[scale] factor: expected a finite number, received nan"),
    (lambda: fs.join(3, [1]), TypeError, "[join] schedules: expected a sequence of schedules, received 3"),
    (
        lambda: fs.join([1, 2], [1, 2]),
        ValueError,
        "[join] schedules: expected 3 schedules for 2 boundaries, received 2",
    ),
    (
        lambda: fs.join([1, 2, 3], [5, 4]),
        ValueError,
        "[join] boundaries: expected strictly increasing integers ≥ 1, received (5, 4)",
    ),
    (
        lambda: fs.join([1, 2], [0]),
        ValueError,
        "[join] boundaries: expected an integer ≥ 1, received 0",
    ),
    (lambda: fs.linear(1, 5)(-1), ValueError, "[linear] step: expected non-negative integers, received -1"),
    (
        lambda: fs.linear(1, 5)(np.array([1, -2])),
        ValueError,
        "[linear] step: expected non-negative integers, received array([ 1, -2])",
    ),
    (
        lambda: fs.linear(1, 5)(2.0),
        TypeError,
        "[linear] step: expected an integer or a NumPy array of integers, received 2.0",
    ),
    (
        lambda: fs.linear(1, 5)([1]),
        TypeError,
        "[linear] step: expected an integer or a NumPy array of integers, received [1]",
    ),
    (
        lambda: fs.linear(1, 5)(True),
        TypeError,
        "[linear] step: expected an integer or a NumPy array of integers, received True",
    ),
    (
        lambda: fs.plot(0.1, steps=2),
        TypeError,
        "[plot] schedules[0]: expected a schedule or a function of the step (fu.schedules.constant(x)), received 0.1",
    ),
    (lambda: fs.plot(steps=0), ValueError, "[plot] steps: expected an integer ≥ 1, received 0"),
    (lambda: fs.plateau(-1), ValueError, "[plateau] start: expected a finite number ≥ 0, received -1"),
    (lambda: fs.plateau(1, factor=1), ValueError, "[plateau] factor: expected a number in [0, 1), received 1"),
    (
        lambda: fs.plateau(1, patience=-1),
        ValueError,
        "[plateau] patience: expected an integer ≥ 0, received -1",
    ),
    (
        lambda: fs.plateau(1, threshold=NAN),
        ValueError,
        "[plateau] threshold: expected a finite number ≥ 0, received nan",
    ),
    (
        lambda: fs.plateau(1, threshold=1),
        ValueError,
        "[plateau] threshold: expected a number in [0, 1), received 1.0",
    ),
    (
        lambda: fs.plateau(1, threshold_mode="absolute"),
        ValueError,
        "[plateau] threshold_mode: expected one of rel, abs, received 'absolute'",
    ),
    (lambda: fs.plateau(1, mode="least"), ValueError, "[plateau] mode: expected one of min, max, received 'least'"),
    (lambda: fs.plateau(1, min_value=2), ValueError, "[plateau] min_value: expected at most start = 1.0, received 2.0"),
    (lambda: fs.plateau(1).update(NAN), ValueError, "[plateau] metric: expected a number, received nan"),
    (
        lambda: fs.plateau(1).update(None),
        TypeError,
        "[plateau] metric: expected a number, received None",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), [pytest.param(*row, id=row[2]) for row in ERRORS])
def test_wrong_arguments_are_named(call, error, message):
    if "plot" in message:
        peer("matplotlib")
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_plot_draws_and_saves(suffix, tmp_path):
    peer("matplotlib")
    path = tmp_path / f"schedules.{suffix}"
    figure = fs.plot(SAMPLES["cosine"], SAMPLES["linear"], steps=50, path=path)
    assert path.stat().st_size > 0
    for line, name in zip([panel.lines[0] for panel in figure.axes], ["cosine", "linear"], strict=True):
        np.testing.assert_array_equal(line.get_xdata(), np.arange(50))
        np.testing.assert_array_equal(line.get_ydata(), SAMPLES[name](np.arange(50)))


@pytest.mark.parametrize("count", [0, 1, 4, 9])
def test_plot_has_a_panel_for_each(count):
    peer("matplotlib")
    panels = fs.plot(*[fs.linear(0.1, 10 + k) for k in range(count)], steps=5).axes
    assert [len(panel.lines) for panel in panels if panel.axison] == [1] * count
    assert [panel.get_title(loc="left") for panel in panels[:count]] == [
        f"linear(start=0.1, steps={10 + k})" for k in range(count)
    ]


def falling(step):
    return 0.1 / (step + 1)


@pytest.mark.parametrize(
    ("schedule", "title"),
    [
        (fs.cosine(1 / 3, 10), "cosine(start=0.3333, steps=10)"),
        (fs.cosine(0.1, 10, end=0.01), "cosine(start=0.1, steps=10, end=0.01)"),
        (fs.exponential(0.1, gamma=0.9), "exponential(start=0.1, gamma=0.9)"),
        (fs.multi_step(0.1, [3, 5]), "multi_step(start=0.1, milestones=[3, 5])"),
        (fs.warmup(fs.cosine(0.1, 9), 3), "warmup(schedule=cosine(start=0.1, steps=9), steps=3)"),
        (fs.warmup(falling, 3), "warmup(schedule=falling, steps=3)"),
        (fs.plateau(0.1, patience=3), "plateau(start=0.1, patience=3)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_plot_leaves_out_what_is_as_by_default(schedule, title):
    peer("matplotlib")
    [panel] = fs.plot(schedule, steps=5).axes
    assert panel.get_title(loc="left").replace("\n", " ") == title


@pytest.mark.parametrize("function", [lambda t: 0.25, lambda t: 1.0 if t > 2 else 0.5, lambda t: 0.1 * t], ids=range(3))
def test_plot_asks_a_plain_function_step_by_step(function):
    peer("matplotlib")
    [panel] = fs.plot(function, steps=5).axes
    assert panel.lines[0].get_ydata().tolist() == [function(t) for t in range(5)]


def test_plot_says_how_to_get_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install fastupdate\[demo\]"):
        fs.plot(SAMPLES["cosine"], steps=5)
