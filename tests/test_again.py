"""A step that is like the one before is one native call, and leaves what a closer look would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from peers import peer

import fastupdate as fu
from fastupdate.engines.choose import native_problem

pytestmark = pytest.mark.skipif(native_problem() is not None, reason=f"no native engine: {native_problem()}")

SHAPES = {"w": (5, 7), "b": (3,), "c": (3,), "e": (40, 4)}
ALIKE, STEPS = 3, 7  # steps before something changes, and in all
Optimizer = Any
Arrays = dict[str, Any]


def arrays(seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def nested(x: Arrays) -> Any:
    return {"head": {"w": x["w"], "b": x["b"], "c": x["c"]}, "tail": (x["e"],)}


def with_rows(x: Arrays) -> Any:
    return [x["w"], x["b"], x["c"], fu.Rows(np.array([7, 30, 7]), x["e"][:3])]


# How parameters and gradients are handed over; without the second, they are bound.
WAYS: dict[str, tuple[Callable[[Arrays], Any], Callable[[Arrays], Any] | None]] = {
    "list": (lambda x: [*x.values()], lambda x: [*x.values()]),
    "tuple": (lambda x: (*x.values(),), lambda x: (*x.values(),)),
    "dict": (dict, dict),
    "dict in another order": (dict, lambda x: dict(reversed(x.items()))),
    "nested": (nested, nested),
    "rows": (lambda x: [*x.values()], with_rows),
    "bound": (lambda x: [*x.values()], None),
}


class Run:
    """Steps of an optimizer, of which one may be disturbed.

    grads    what the next step is handed
    keywords of the next step
    """

    def __init__(self, way: str, closely: bool, **options: Any) -> None:
        shaped, self.handed = WAYS[way]
        self.closely, self.arrays = closely, arrays(1)
        self.params, self.buffers = shaped(self.arrays), arrays(2)
        self.optimizer: Optimizer = fu.AdamW(self.params, lr=0.01, weight_decay=0.1, **{"rows": "lazy", **options})
        if self.handed is None:
            self.optimizer.bind([*self.buffers.values()])
        self.taken: list[bool] = []  # by the one call
        self.found: list[Any] = []
        self.keywords: dict[str, Any] = {}
        self.grads: Any = None

    def prepare(self, k: int) -> None:
        for name, x in arrays(10 + k).items():
            self.buffers[name][...] = x
        self.grads = None if self.handed is None else self.handed({n: x.copy() for n, x in self.buffers.items()})
        self.keywords = {}

    def attempt(self, call: Callable[[], Any]) -> None:
        """Notes what it returns or raises."""
        try:
            self.found.append(call())
        except (ValueError, TypeError, RuntimeError, FloatingPointError) as error:
            self.found.append((type(error), str(error)))

    def step(self) -> None:
        stepper = self.optimizer.stepper
        again = stepper.again

        def noted(*arguments: Any) -> Any:
            report = again(*arguments)
            self.taken.append(report is not None)
            return report

        stepper.again = None if self.closely or again is None else noted
        self.attempt(lambda: repr(self.optimizer.step(self.grads, **self.keywords).as_dict()))
        self.found.append([x.tobytes() for x in self.arrays.values()])

    def all(self, change: Callable[[Run], None]) -> list[Any]:
        for k in range(STEPS):
            self.prepare(k)
            if k == ALIKE or (change in OFTEN and k > ALIKE and (k - ALIKE) % 2 == 0):
                self.attempt(lambda: change(self))
            self.step()
        states = [slot.tobytes() for item in self.optimizer.stepper.items for slot in item.slots.values()]
        return [*self.found, states, self.optimizer.step_count]


def nothing(run: Run) -> None:
    pass


def lr(run: Run) -> None:
    run.optimizer.lr = 0.5


def function_of_lr(run: Run) -> None:
    calls = iter([0.1, 0.2, 0.3, 0.4] * 9)
    run.optimizer.lr = lambda step: 0.01 * step + 0 * next(calls)


def schedule(run: Run) -> None:
    run.optimizer.lr = fu.schedules.cosine(0.1, steps=9)


def bad_lr(run: Run) -> None:
    run.optimizer.groups[0]["lr"] = 0.03


def freeze(run: Run) -> None:
    run.optimizer.freeze(run.optimizer.stepper.items[1].name)


def accumulate(run: Run) -> None:
    run.optimizer.accumulate(run.grads)
    run.optimizer.accumulate(run.grads)
    run.grads = None


def left_over(run: Run) -> None:
    run.optimizer.accumulate(run.grads)


def start_at(run: Run) -> None:
    run.optimizer.start_at(100)


def loaded(run: Run) -> None:
    run.optimizer.load_state_dict(run.optimizer.state_dict())


def bound(run: Run) -> None:
    run.optimizer.bind(nested(arrays(5)) if isinstance(run.params, dict) and "head" in run.params else
                       arrays(5) if isinstance(run.params, dict) else [*arrays(5).values()])  # fmt: skip


def bound_and_frozen(run: Run) -> None:
    bound(run)
    freeze(run)


def infinite(run: Run) -> None:
    run.buffers["w"][0, 0] = np.inf
    run.grads = None if run.handed is None else run.handed(run.buffers)


def another_shape(run: Run) -> None:
    run.grads = run.handed({**run.buffers, "w": np.ones((5, 8), np.float32)}) if run.handed else None


def another_type(run: Run) -> None:
    run.grads = run.handed({**run.buffers, "b": np.ones(3, np.float16)}) if run.handed else None


def transposed(run: Run) -> None:
    run.grads = run.handed({**run.buffers, "w": np.asfortranarray(run.buffers["w"])}) if run.handed else None


def overlapping(run: Run) -> None:
    run.grads = run.handed({**run.buffers, "w": run.arrays["w"]}) if run.handed else None


def one_and_the_same(run: Run) -> None:
    run.grads = (run.handed or WAYS["list"][0])({**run.buffers, "c": run.buffers["b"]})


def missing(run: Run) -> None:
    run.grads = run.handed({**run.buffers, "b": None}) if run.handed else None


def one_less(run: Run) -> None:
    run.grads = [*run.buffers.values()][:2]


def one_more(run: Run) -> None:
    run.grads = [*run.buffers.values(), np.ones(3, np.float32)]


def nobody(run: Run) -> None:
    run.grads = None


def loss_scale(run: Run) -> None:
    run.keywords = {"loss_scale": 4.0}


def samples(run: Run) -> None:
    run.keywords = {"reduce": "mean"}
    run.grads = run.handed({name: np.stack([x, 2 * x]) for name, x in run.buffers.items()}) if run.handed else None


def resized(run: Run) -> None:
    if isinstance(run.params, list):
        run.params.append(np.ones(3, np.float32))


def exchanged(run: Run) -> None:
    if isinstance(run.params, (list, dict)):
        run.params[1 if isinstance(run.params, list) else next(iter(run.params))] = np.ones(3, np.float32)


def busy(run: Run) -> None:
    held = run.optimizer.stepper.lock
    held.acquire()
    run.step()
    held.release()


CHANGES = [
    nothing, lr, function_of_lr, schedule, bad_lr, freeze, accumulate, left_over, start_at, loaded, bound,
    bound_and_frozen, infinite, another_shape, another_type, transposed, overlapping, one_and_the_same, missing,
    one_less, one_more, nobody, loss_scale, samples, resized, exchanged, busy,
]  # fmt: skip
OFTEN = (infinite,)  # in every other step
OPTIONS: list[dict[str, Any]] = [
    {},
    {"clip_norm": 0.5, "nonfinite": "skip", "max_skips": 1},
    {"missing": "skip"},
    {"zero_grads": True},
    {"ema_decay": 0.9, "rows": "dense"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_step_like_the_one_before_leaves_what_a_close_look_would(
    change: Callable[[Run], None], way: str, options: dict[str, Any]
) -> None:
    quickly, closely = (Run(way, looked, **options) for looked in (False, True))
    assert quickly.all(change) == closely.all(change)
    if not ("zero_grads" in options and quickly.handed) and not (way == "rows" and options.get("rows") == "dense"):
        assert quickly.taken[:1] == [True], "nothing was taken for granted"
        assert change is not nothing or all(quickly.taken)


@pytest.mark.parametrize(("rows", "taken"), [(5, True), (20_000, False)])
def test_others_wait_for_few_rows_of_a_large_table_and_not_for_many(rows: int, taken: bool) -> None:
    """A step that takes long is not taken while no other Python thread runs, however it begins."""
    found = []
    for closely in (False, True):
        table = np.ones((25_000, 128), np.float32)
        optimizer = fu.SparseAdam([table], lr=0.1)
        for k in range(3):
            grads = [fu.Rows(np.arange(rows), np.full((rows, 128), k + 1.0, np.float32))]
            stepper = optimizer.stepper
            if closely:
                stepper.again = None
            elif k:
                assert (stepper.again(grads, 1.0, None, None) is not None) == taken
                if taken:
                    continue
            optimizer.step(grads)
        found.append((table.tobytes(), optimizer.step_count))
    assert found[0] == found[1]


@pytest.mark.peer
def test_bound_gradients_are_read_though_tensors_of_torch_hold_others() -> None:
    """Once other tensors move, they are looked through anew."""
    torch = peer("torch")
    p, q = (torch.nn.Parameter(torch.zeros(3)) for _ in range(2))
    p.grad, q.grad = torch.full((3,), 5.0), torch.full((3,), 5.0)
    bound = [torch.ones(3), torch.ones(3)]
    optimizer = fu.SGD([p, q], lr=1.0)
    optimizer.bind(bound)
    for _ in range(2):
        optimizer.step()
    optimizer.freeze("1")
    optimizer.step([torch.zeros(3), torch.zeros(3)])
    for _ in range(2):
        optimizer.step()
    assert p.tolist() == [-4.0] * 3
    assert q.tolist() == [-2.0] * 3
