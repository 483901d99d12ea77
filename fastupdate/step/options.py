"""The options that every optimizer takes, checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from inspect import signature
from typing import Any, Literal, TypedDict, get_args

from fastupdate.arrays.memory import NARROW
from fastupdate.arrays.numbers import COUNT, POSITIVE, SHARE, Interval, integer, real, switch
from fastupdate.arrays.place import Place
from fastupdate.groups import GroupSpec
from fastupdate.rules.rule import Rule
from fastupdate.stages import FLAGS, MEASURING, Stage
from fastupdate.step.outliers import FEWEST

L1Mode = Literal["subgradient", "proximal"]
DecayMode = Literal["coupled", "decoupled", "independent", "cautious", "corrected", "after"]
NonFinite = Literal["propagate", "skip", "raise"]
Missing = Literal["raise", "skip"]
RowGradients = Literal["dense", "lazy"]
Shadow = Literal["float16", "bfloat16"]
Cautious = Literal[False, True, "mean", "count"]


BY_RATE = ("decoupled", "cautious", "corrected", "after")  # the modes of decay that go by the learning rate
SWITCHES = ("centralize", "trust_ratio", "keep_norm", "zero_grads", "maximize", "monitor")
CLIPS = ("clip_norm", "clip_tensor_norm", "clip_unit_norm")  # a step clips by one of these, a number or a schedule


# Flags of the stages that are no options themselves: which option says them, and by which value.
SAID_BY = {
    "proximal": ("l1_mode", "proximal"),
    "cautious_count": ("cautious", "count"),
    "cautious_mean": ("cautious", "mean"),
}


class Undecayed(Interval):
    """What weight decay may be where a mask would reach it."""

    def __str__(self) -> str:
        return "0, or decay= ('coupled', 'independent' …), for cautious would mask this rule's own decay"


UNDECAYED = Undecayed(0.0, 0.0)


class Options(TypedDict, total=False):
    """What every optimizer takes, by keyword; each is off unless it is given. More: docs/options.md.

    l1              λ of a penalty on |w|: a number ≥ 0, or a schedule
    l1_mode         "subgradient" adds λ·sign(w) to the gradient; "proximal" shrinks weights after the step, to exact 0
    decay           how weight_decay acts: "coupled" adds to the gradient, "decoupled" shrinks by lr·λ, "independent" by
                    λ, "cautious" by lr·λ what does not move away from zero, "corrected" by lr²·λ/peak_lr, "after" by
                    lr·λ what the step has moved; None: as the rule defines it
    peak_lr         the largest learning rate, for decay="corrected": a number > 0, or a schedule
    clip_norm       largest norm of all gradients together: a number > 0, or a schedule
    clip_tensor_norm
                    largest norm of each tensor's gradient, likewise
    clip_unit_norm  largest norm of each row of a gradient, in norms of its weights, likewise
    clip_value      largest magnitude of an element of a gradient: a number ≥ 0, or (low, high), its smallest and its
                    largest value; each of them may be a schedule
    nonfinite       where a gradient is NaN or infinite: "propagate" steps all the same, "skip" leaves the step out,
                    "raise" is a FloatingPointError
    missing         where a gradient is None or absent: "raise" is an error, "skip" leaves that tensor alone
    rows            where a gradient touches few rows (fu.Rows, sparse tensors): "dense" moves every row, as by zeros
                    elsewhere; "lazy" moves those rows and their states, and leaves all others alone; None: as the rule
                    defines it
    outliers        (k, window): leaves out a step whose gradient norm, or `loss` if step() is told it, is more than k
                    standard deviations above the last `window` ones
    max_skips       how many steps in a row may be skipped before that is an error
    ema_decay       how much of the average of the weights stays, in opt.ema: a number in [0, 1], or a schedule
    shadow          type of a copy of the weights, in opt.shadow: "float16" or "bfloat16"
    lookahead       (k, a): every k steps slow ← slow + a·(w − slow) and w ← slow
    optimism        β: the gradient is extrapolated by β times its difference from that of the step before: a number
                    ≥ 0, or a schedule
    optimism_norm   largest norm of a tensor's extrapolated gradient: a number > 0, or a schedule
    cautious        leaves out of a step what would move along the gradient, instead of against it; "mean" and "count"
                    make the rest longer, by 1/max(k/n, 1e-3) or n/(k + 1), k of a tensor's n elements being taken;
                    weight decay that is not part of the gradient stays whole
    centralize      subtracts from a gradient its mean over all axes but the first, where it has several
    trust_ratio     makes the step of a tensor lr times as long as its weights are, where neither is 0
    keep_norm       scales the weights of a tensor of several axes, when they have moved, to the norm that they had
    zero_grads      sets gradients to 0 when they have been used
    maximize        climbs instead of descending
    monitor         statistics of each tensor, in report.tensors
    groups          hyperparameters of some tensors: a list of {"params": pattern, "lr": …} (see fu.groups)
    state           states to start from instead of zeros, by name
    backend         "native", "numba", "cuda" or "numba-cuda"; None: the best that there is
    """

    l1: Any
    l1_mode: L1Mode
    decay: DecayMode | None
    peak_lr: Any
    clip_norm: Any
    clip_tensor_norm: Any
    clip_unit_norm: Any
    clip_value: Any
    nonfinite: NonFinite
    missing: Missing
    rows: RowGradients | None
    outliers: tuple[float, int] | None
    max_skips: int | None
    ema_decay: Any
    shadow: Shadow | None
    lookahead: tuple[int, float] | None
    optimism: Any
    optimism_norm: Any
    cautious: Cautious
    centralize: bool
    trust_ratio: bool
    keep_norm: bool
    zero_grads: bool
    maximize: bool
    monitor: bool
    groups: Iterable[GroupSpec]
    state: Mapping[str, Any] | Sequence[Any] | None
    backend: str | None


_steps, _share = partial(integer, interval=COUNT), partial(real, interval=SHARE)
_deviations, _window = partial(real, interval=POSITIVE), partial(integer, interval=Interval(FEWEST))


@dataclass(frozen=True)
class Settings:
    """The options of one optimizer, as checked."""

    rule: str
    l1: Any = 0.0
    l1_mode: L1Mode = "subgradient"
    decay: DecayMode | None = None
    peak_lr: Any = None
    clip_norm: Any = None
    clip_tensor_norm: Any = None
    clip_unit_norm: Any = None
    clip_value: Any = math.inf
    nonfinite: NonFinite = "propagate"
    missing: Missing = "raise"
    rows: RowGradients | None = None
    outliers: tuple[float, int] | None = None
    max_skips: int | None = None
    ema_decay: Any = None
    shadow: Shadow | None = None
    lookahead: tuple[int, float] | None = None
    optimism: Any = None
    optimism_norm: Any = None
    cautious: Cautious = False
    centralize: bool = False
    trust_ratio: bool = False
    keep_norm: bool = False
    zero_grads: bool = False
    maximize: bool = False
    monitor: bool = False
    groups: Iterable[GroupSpec] = ()
    state: Mapping[str, Any] | Sequence[Any] | None = None
    backend: str | None = None

    def __post_init__(self) -> None:
        self._one_of("l1_mode", get_args(L1Mode))
        self._one_of("decay", (None, *get_args(DecayMode)))
        self._one_of("nonfinite", get_args(NonFinite))
        self._one_of("missing", get_args(Missing))
        self._one_of("rows", (None, *get_args(RowGradients)))
        self._one_of("shadow", (None, *NARROW))
        self._one_of("cautious", get_args(Cautious))
        for name in SWITCHES:
            self._set(name, switch(Place(self.rule, name), getattr(self, name)))
        if self.max_skips is not None:
            self._set("max_skips", integer(Place(self.rule, "max_skips"), self.max_skips))
            if self.nonfinite != "skip" and self.outliers is None:
                expected = "None, unless nonfinite='skip' or outliers"
                Place(self.rule, "max_skips").fail(ValueError, expected, repr(self.max_skips))
        if (self.decay == "corrected") != (self.peak_lr is not None):
            expected = "the largest learning rate" if self.peak_lr is None else "None, unless decay='corrected'"
            Place(self.rule, "peak_lr").fail(ValueError, expected, repr(self.peak_lr))
        clips = [name for name in CLIPS if getattr(self, name) is not None]
        if len(clips) > 1:
            raise ValueError(
                f"[{self.rule}] {clips[1]}: expected one way of clipping norms, received {' and '.join(clips)}"
            )
        for name in clips:
            if not callable(getattr(self, name)):
                self._set(name, self._limit(name, getattr(self, name)))
        if self.lookahead is not None:
            self._set("lookahead", self._pair("lookahead", "(steps ≥ 1, weight in (0, 1])", _steps, _share))
        if self.outliers is not None:
            words = f"(standard deviations > 0, steps ≥ {FEWEST})"
            self._set("outliers", self._pair("outliers", words, _deviations, _window))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _one_of(self, name: str, allowed: tuple[Any, ...]) -> None:
        value = getattr(self, name)
        if value not in allowed:
            Place(self.rule, name).not_among(allowed, value)

    def _pair(self, name: str, words: str, *converters: Callable[[Place, Any], float]) -> tuple[float, ...]:
        """An option that is two numbers, converted and checked."""
        place, value = Place(self.rule, name), getattr(self, name)
        try:
            first, second = value
            return converters[0](place, first), converters[1](place, second)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{place}: expected {words}, received {value!r}") from error

    @cached_property
    def scheduled(self) -> tuple[str, ...]:
        """The options that are schedules; hyperparameters, which groups hold, are none."""
        return tuple(name for name in CLIPS if callable(getattr(self, name)))

    def at(self, step: int) -> Settings:
        """The options of the step after `step` steps: numbers, checked, in the place of schedules."""
        values: dict[str, Any] = {name: self._limit(name, getattr(self, name)(step)) for name in self.scheduled}
        return replace(self, **values)

    def _limit(self, name: str, value: Any) -> float:
        return real(Place(self.rule, name), value, POSITIVE)

    @cached_property
    def needs_sums(self) -> bool:
        """Whether a step reads the gradients once before it moves anything."""
        wanted = (self.clip_norm, self.clip_tensor_norm, self.outliers)
        return self.nonfinite != "propagate" or any(option is not None for option in wanted)

    @cached_property
    def limit_alone(self) -> float | None:
        """The limit of the norm of all gradients, if what is read of them before anything moves decides nothing else;
        infinite if they are only to be finite."""
        others = (self.clip_tensor_norm, self.clip_unit_norm, self.outliers)
        if not self.needs_sums or self.monitor or self.scheduled or any(option is not None for option in others):
            return None
        return math.inf if self.clip_norm is None else float(self.clip_norm)

    def decay_mode(self, rule: Rule) -> DecayMode | None:
        """How weight decay acts: as the rule defines it, unless another mode was asked for; None: in its own way."""
        return self.decay or own_decay(rule)

    def check_decay(self, rule: Rule) -> None:
        """ValueError for weight decay by a learning rate that the rule finds itself."""
        if rule.found_rate and self.decay in BY_RATE:
            expected = (
                "None, 'coupled' or 'independent', for this rule finds its learning rate and lr is a factor of it"
            )
            Place(rule.name, "decay").fail(ValueError, expected, repr(self.decay))

    def intervals(self, rule: Rule) -> Mapping[str, Interval]:
        """The values that the rule's hyperparameters may have beside these options."""
        masked = self.cautious and self.decay is None and rule.own_decay
        return {**rule.hypers, "weight_decay": UNDECAYED} if masked else rule.hypers

    def lazy_rows(self, rule: Rule) -> bool:
        """Whether a step by a gradient of few rows moves these alone."""
        return rule.lazy_rows if self.rows is None else self.rows == "lazy"

    def has_extra_decay(self, rule: Rule) -> bool:
        """Whether weight decay is a stage around the rule, and not the rule's own.

        A mask must not reach what is decoupled, and sees in the gradient what was said to be there.
        """
        masked = self.cautious and (self.decay is not None or own_decay(rule) == "decoupled")
        return "weight_decay" in rule.hypers and (masked or self.decay_mode(rule) != own_decay(rule))

    def flags_on(self, rule: Rule) -> list[bool]:
        """Which of the stages' flags are on (fastupdate/stages/table.py)."""
        decay = self.decay_mode(rule) if self.has_extra_decay(rule) else None
        modes = {f"{mode}_decay": mode == decay for mode in get_args(DecayMode)}
        return [modes[flag] if flag in modes else self._is_on(flag) for flag in FLAGS]

    def _is_on(self, flag: str) -> bool:
        """The same, of what is no mode of weight decay: an option of its name, or a value of another one."""
        option, *value = SAID_BY.get(flag, (flag,))
        given = getattr(self, option)
        return given == value[0] if value else bool(given)

    def asks_for(self, stage: Stage) -> bool:
        """Whether a stage that has an array is wanted."""
        return any(map(self._asks, stage.options))

    def _asks(self, name: str) -> bool:
        return self._is_on(name) if name in FLAGS else getattr(self, name) is not None

    def asking(self, stage: Stage) -> str:
        """The option by which a stage is wanted."""
        name = next(name for name in stage.options if self._asks(name))
        return SAID_BY.get(name, (name,))[0]

    @cached_property
    def measuring(self) -> list[Stage]:
        """The stages that are wanted and need what elements add up to."""
        return [stage for stage in MEASURING if self.asks_for(stage)]

    def check_sums(self, expected: str, received: str) -> None:
        """ValueError for an option that needs sums of its own, which there are none of."""
        for stage in self.measuring:
            Place(self.rule, self.asking(stage)).fail(
                ValueError, f"{expected}, for an option that needs sums of its own", received
            )


def own_decay(rule: Rule) -> DecayMode | None:
    """The weight decay that a rule defines; None: it is none of these modes."""
    if rule.own_decay:
        return None
    return "decoupled" if rule.decoupled_decay else "coupled"


def check_names(optimizer: type[Any], options: Iterable[str]) -> None:
    """An unknown keyword of an optimizer is a TypeError, as for any Python function."""
    for name in options:
        if name not in Options.__annotations__:
            own = [key for key in signature(optimizer).parameters if key not in ("params", "options")]
            Place(optimizer.rule.name, name).unknown(TypeError, "option", [*own, *Options.__annotations__])
