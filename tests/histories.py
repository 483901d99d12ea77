"""Random lives of an optimizer: good calls and failing ones, parameters that move, are rebound, frozen and reloaded,
interrupts. After each event every array has the bytes of a reference in plain NumPy.

A history is a seed: `run(seed)` raises AssertionError with the events so far. tests/test_histories.py runs many.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import CASES, random_arrays, same_bits
from interrupts import InterruptError, interrupted_after
from lives import Arrays, Numpy, TensorLife, Torch, reread
from reference import narrowed

import fastupdate as fu

OPTIONS: list[dict[str, Any]] = [
    {},
    {"clip_tensor_norm": 3.0, "ema_decay": 0.75, "shadow": "bfloat16"},
    {"clip_value": 1.5, "nonfinite": "skip", "l1": 1e-3, "shadow": "float16"},
    {"clip_unit_norm": 0.25, "ema_decay": 0.5, "decay": "independent"},
    {"optimism": 0.25, "cautious": True, "ema_decay": 0.5},
    {"optimism": 0.25, "optimism_norm": 2.0, "cautious": "mean", "centralize": True, "decay": "cautious"},
    {"trust_ratio": True, "keep_norm": True, "monitor": True},
]
SHAPES = [(3, 3), (4, 2), (5,), (), (2, 0), (3, 40), (1030,)]
NUMBA = "adam-plain"  # compiling takes seconds, so there it is one rule


class History:
    def __init__(self, seed: int, backend: str, framework: str) -> None:
        self.rng = rng = np.random.default_rng(seed)
        cases = [case for case in CASES if backend != "numba" or str(case) == NUMBA]
        self.case = cases[rng.integers(len(cases))]
        self.options = OPTIONS[0 if backend == "numba" else rng.integers(len(OPTIONS))]
        self.backend = backend
        count = rng.integers(1, 4)
        dtypes = [np.float32 if backend == "numba" or rng.random() < 0.7 else np.float64 for _ in range(count)]
        values = [self.values(SHAPES[rng.integers(len(SHAPES))], dtype) for dtype in dtypes]
        self.params = {"numpy": Numpy, "torch": Torch}[framework](rng, values)
        self.lives = [TensorLife(self.case, v, self.options) for v in values]
        self.opt = self.make()
        self.waiting: list[Arrays] = []  # micro-batches
        self.saved: Any = None
        self.events: list[str] = []
        self.kinds = sorted(name for name in vars(History) if name.startswith("do_"))
        if framework != "torch":
            self.kinds = [name for name in self.kinds if "torch" not in name]

    def make(self) -> fu.Optimizer:
        opt = self.case.make(self.params.tree, backend=self.backend, **self.options)
        for group in opt.groups:
            group["lr"] = self.lr
        return opt

    @property
    def lr(self) -> float:
        return float(self.lives[0].reference.values["lr"])

    def values(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        size = int(np.prod(shape))
        return random_arrays(int(self.rng.integers(1 << 30)), [size], dtype, spread=1.0)[0].reshape(shape)

    def gradients(self) -> Arrays:
        return [self.values(life.tensor.p.shape, life.tensor.p.dtype) for life in self.lives]

    def handed(self, grads: Arrays) -> Any:
        return self.params.structured([self.params.gradient(g, self.rng) for g in grads])

    def expect(self, grads: Arrays, **keywords: Any) -> None:
        if self.options.get("nonfinite") == "skip" and not all(
            np.isfinite(g).all() for g, life in zip(grads, self.lives, strict=True) if not life.frozen
        ):
            return
        for life, g in zip(self.lives, grads, strict=True):
            life.step([g], **keywords)

    def refused(self, call: Callable[[], Any], *errors: type[Exception]) -> None:
        """A call that fails, and names what is wrong."""
        with pytest.raises(errors or (TypeError, ValueError), match=rf"^\[{self.case.rule}\] "):
            call()

    def pick(self, wanted: Callable[[np.ndarray], Any] = lambda p: True) -> int | None:
        found = [k for k, life in enumerate(self.lives) if wanted(life.tensor.p)]
        return int(self.rng.choice(found)) if found else None

    # -- steps --------------------------------------------------------------------------------------------------------

    def do_step(self) -> None:
        if self.waiting:
            return self.do_accumulated_step()
        grads = self.gradients()
        scale = float(2.0 ** self.rng.integers(-3, 4))
        self.opt.step(self.handed(grads), loss_scale=scale)
        return self.expect(grads, loss_scale=scale)

    def do_bound_steps(self) -> None:
        if self.waiting:
            return
        grads = self.gradients()
        buffers = self.handed(grads)
        self.opt.bind(buffers)
        for _ in range(self.rng.integers(1, 4)):
            self.opt.step()
            self.expect(grads)

    def do_torch_own_gradients(self) -> None:
        if self.waiting or self.opt.stepper.bound.tree is not None:
            return
        grads = self.gradients()
        for p, g, life in zip(self.params.arrays, grads, self.lives, strict=True):
            p.grad = None if life.frozen else self.params.torch.from_numpy(np.array(g))
        self.opt.step()
        self.expect(grads)

    def do_accumulate(self) -> None:
        grads = self.gradients()
        self.opt.accumulate(self.handed(grads))
        self.waiting.append(grads)

    def do_accumulated_step(self) -> None:
        if not self.waiting:
            return
        self.opt.step()
        batches, self.waiting = self.waiting, []
        for k, life in enumerate(self.lives):
            life.step([np.stack([grads[k] for grads in batches])], reduce="mean")

    def do_discard(self) -> None:
        self.opt.discard()
        self.waiting = []

    def do_nan(self) -> None:
        if self.waiting or self.options.get("nonfinite") != "skip":
            return
        grads = self.gradients()
        k = self.pick(lambda p: p.size)
        if k is not None:
            grads[k].reshape(-1)[-1] = np.nan
        self.opt.step(self.handed(grads))
        self.expect(grads)

    def do_set_lr(self) -> None:
        lr = float(2.0 ** self.rng.uniform(-9, -4))
        self.opt.lr = lr
        for life in self.lives:
            life.reference.values["lr"] = lr

    # -- failing calls ------------------------------------------------------------------------------------------------

    def do_wrong_gradient(self) -> None:
        k = int(self.rng.integers(len(self.lives)))
        if self.lives[k].frozen or self.waiting:
            return
        grads = self.gradients()
        wrong: list[Any] = [
            np.zeros((*grads[k].shape, 2), grads[k].dtype),
            grads[k].astype(np.float64 if grads[k].dtype == np.float32 else np.float32),
            grads[k].astype(">f4"),
            None,
            "nothing",
        ]
        handed = [self.params.gradient(g, self.rng) for g in grads]
        handed[k] = wrong[self.rng.integers(len(wrong))]
        for call in (self.opt.step, self.opt.accumulate, self.opt.bind):
            self.refused(lambda call=call: call(self.params.structured(handed)))

    def do_missing_gradient(self) -> None:
        if self.waiting or any(life.frozen for life in self.lives):
            return
        handed = [self.params.gradient(g, self.rng) for g in self.gradients()]
        tree = self.params.structured(handed)
        tree.pop(self.params.keys[-1])
        self.refused(lambda: self.opt.step(tree))

    def do_overlapping_gradient(self) -> None:
        k = self.pick(lambda p: p.size)
        if k is None or self.waiting or self.lives[k].frozen:
            return
        handed = [self.params.gradient(g, self.rng) for g in self.gradients()]
        p = self.params.arrays[k]
        handed[k] = p.detach() if hasattr(p, "detach") else p[...]
        self.refused(lambda: self.opt.step(self.params.structured(handed)), ValueError)

    def do_wrong_number(self) -> None:
        for value in (np.nan, -1.0, "1e-3", None):
            with pytest.raises((TypeError, ValueError), match="lr"):
                self.opt.lr = value
        if not self.waiting:
            self.refused(lambda: self.opt.step(self.handed(self.gradients()), loss_scale=0.0))

    def do_wrong_state(self) -> None:
        state = self.opt.state_dict()
        state["arrays"].popitem() if state["arrays"] else state.pop("rule")
        with pytest.raises((TypeError, ValueError), match=r"."):
            self.opt.load_state_dict(state)

    def do_exchange(self) -> None:
        """Another array in the user's container, and the old one again."""
        k = self.pick(lambda p: p.size)  # empty arrays are all alike
        if k is None:
            return
        key, own = self.params.keys[k], self.params.arrays[k]
        self.params.tree[key] = own + 0 if isinstance(own, np.ndarray) else own.detach().clone()
        self.refused(self.step_somehow, ValueError)
        self.params.tree[key] = own

    def do_lock(self) -> None:
        k = int(self.rng.integers(len(self.lives)))
        own = self.params.arrays[k]
        if not isinstance(own, np.ndarray) or isinstance(own.base, bytes):  # which pickles leave behind
            return
        own.flags.writeable = False
        if self.lives[k].frozen:
            self.refused(self.opt.state_dict, ValueError)
        else:
            self.refused(self.step_somehow, ValueError)
        own.flags.writeable = True

    def step_somehow(self) -> None:
        self.opt.step(None if self.waiting else self.handed(self.gradients()))

    # -- parameters that become others --------------------------------------------------------------------------------

    def do_move(self) -> None:
        k = int(self.rng.integers(len(self.lives)))
        tensor = self.lives[k].tensor
        tensor.p = self.values(tensor.p.shape, tensor.p.dtype)
        self.params.write(k, tensor.p)

    def do_resize(self) -> None:
        """The memory of an array goes elsewhere: the optimizer names it, and another one takes over its state."""
        k = self.pick(lambda p: p.ndim == 1)
        if k is None or self.waiting or not isinstance(self.params.arrays[k], np.ndarray):
            return
        own = self.params.arrays[k]
        if not own.flags.owndata or self.lives[k].frozen:
            return
        state, n = self.opt.state_dict(), len(own)
        own.resize(100 * n, refcheck=False)
        self.refused(self.step_somehow, ValueError)
        own.resize(n, refcheck=False)
        self.opt = self.make()
        self.opt.load_state_dict(state)

    def do_torch_rebind(self) -> None:
        k = int(self.rng.integers(len(self.lives)))
        tensor = self.lives[k].tensor
        if self.rng.random() < 0.5:
            tensor.p = self.values(tensor.p.shape, tensor.p.dtype)
        self.params.rebind(k, tensor.p, self.rng)

    def do_torch_transpose(self) -> None:
        k = self.pick(lambda p: p.shape == (3, 3))
        if k is not None:
            tensor = self.lives[k].tensor
            tensor.p = np.ascontiguousarray(tensor.p.T)
            self.params.arrays[k].data = self.params.arrays[k].data.t()

    def do_torch_alias(self) -> None:
        p = self.params.arrays
        pairs = [
            (j, k) for j in range(len(p)) for k in range(j) if p[j].shape == p[k].shape and p[j].dtype == p[k].dtype
        ]
        if not pairs or self.waiting:
            return
        j, k = pairs[self.rng.integers(len(pairs))]
        if not p[j].numel() or self.lives[j].frozen:
            return
        own, p[j].data = p[j].data, p[k].data
        self.refused(self.step_somehow, ValueError)
        p[j].data = own

    def do_torch_wrong_rebind(self) -> None:
        k = int(self.rng.integers(len(self.lives)))
        p = self.params.arrays[k]
        if self.lives[k].frozen:
            return
        own, p.data, p.grad = p.data, self.params.torch.zeros((*p.shape, 2), dtype=p.dtype), None
        self.refused(self.step_somehow)
        p.data = own

    # -- what surrounds steps -----------------------------------------------------------------------------------------

    def do_freeze(self) -> None:
        k = int(self.rng.integers(len(self.lives)))
        pattern = str(self.params.keys[k])
        if self.waiting:
            return self.refused(lambda: self.opt.freeze(pattern), ValueError)
        self.opt.freeze(pattern)
        self.lives[k].frozen = True
        return None

    def do_thaw(self) -> None:
        if self.waiting:
            return
        state: Any = ["hold", "reset", 0.5][self.rng.integers(3)]
        self.opt.unfreeze("*", state=state)
        for life in self.lives:
            if life.frozen and state != "hold":
                factor = 0.0 if state == "reset" else state
                life.tensor.states = [s * factor if factor else np.zeros_like(s) for s in life.tensor.states]
                life.reference.t = 0 if state == "reset" else life.reference.t
            life.frozen = False

    def do_start_at(self) -> None:
        if self.waiting:
            return
        step = int(self.rng.integers(1, 1000))
        self.opt.start_at(step)
        for life in self.lives:
            if not life.frozen:
                life.reference.t = step - 1

    def do_resync(self) -> None:
        self.opt.resync()
        for life in self.lives:
            life.tensor.ema = life.tensor.slow = life.tensor.p
            if self.options.get("shadow"):
                life.tensor.shadow = narrowed(life.tensor.p, self.options["shadow"])

    def do_lend(self) -> None:
        if "ema_decay" not in self.options:
            return
        with self.opt.ema_weights():
            for p, life in zip(self.params.host(), self.lives, strict=True):
                assert same_bits(p, life.tensor.ema) is None
            with pytest.raises(fu.BusyError):
                self.opt.step()

    def do_save(self) -> None:
        if self.waiting:
            return
        state = pickle.loads(pickle.dumps(self.opt.state_dict()))
        self.saved = state, copy.deepcopy(self.lives)

    def do_load(self) -> None:
        """An earlier state, into this optimizer or into a new one; the parameters stay."""
        if self.saved is None or self.waiting:
            return
        state, lives = self.saved
        if self.rng.random() < 0.5:
            self.opt = self.make()
        self.opt.load_state_dict(copy.deepcopy(state))
        for life, now in zip(copy.deepcopy(lives), self.lives, strict=True):
            life.tensor.p = now.tensor.p
            now.reference, now.frozen = life.reference, life.frozen

    def do_copy(self) -> None:
        if self.waiting:
            return
        self.opt = copy.deepcopy(self.opt) if self.rng.random() < 0.5 else reread(self.opt)
        self.params.tree = self.opt.params
        self.params.arrays = [self.params.tree[key] for key in self.params.keys]

    def do_interrupt(self) -> None:
        """A handler raises somewhere within a call: it has been made, or not."""
        grads = self.gradients()
        if self.waiting:
            return
        before = copy.deepcopy(self.lives)
        call = [lambda: self.opt.step(self.handed(grads)), lambda: self.opt.bind(self.handed(grads))]
        which = int(self.rng.integers(2))
        where = interrupted_after(call[which], int(self.rng.integers(600)))
        self.events.append(f"  at {where}")
        if which == 0:
            self.expect(grads)
            if self.differences():
                assert where is not None
                self.lives = before

    # -- the check ----------------------------------------------------------------------------------------------------

    def differences(self) -> list[str]:
        there = zip(self.lives, self.params.host(), self.opt.stepper.items, strict=True)
        return [f"tensor {k}: {text}" for k, (life, *given) in enumerate(there) for text in life.differences(*given)]

    def live(self, events: int) -> None:
        for _ in range(events):
            kind = "do_step" if self.rng.random() < 0.25 else self.kinds[self.rng.integers(len(self.kinds))]
            self.events.append(kind.removeprefix("do_"))
            getattr(self, kind)()
            assert not (found := self.differences()), "; ".join(found)


def run(seed: int, backend: str, framework: str, events: int = 30) -> None:
    history = History(seed, backend, framework)
    try:
        history.live(events)
    except (Exception, InterruptError, pytest.fail.Exception) as error:
        options, shapes = history.options, [(life.tensor.p.shape, str(life.tensor.p.dtype)) for life in history.lives]
        about = f"history {seed} ({backend}, {framework}), {history.case} {options} {shapes}"
        raise AssertionError(f"{about}: {', '.join(history.events)}: {error!r}") from error
