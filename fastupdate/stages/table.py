"""The stages: what a step does around the rule, in this order. Every engine runs them by this text.

A stage is a class that reads like a rule (fastupdate/rules/rule.py):

    class Shrink:
        '''Formula, source.'''

        at = "after"                            # what it changes, and so when: see below
        l1 = Hyper(0.0, NON_NEGATIVE, "…")      # an option that groups may set apart, and schedules change
        proximal = Flag("…")                    # an option of the whole optimizer
        slow = State("…", start="p")            # an array of its own, shaped like the parameter

        @staticmethod
        def prepare(h):                         # once a step and group, in float64: its numbers, rounded once
            return scalars(shrink=h.lr * h.l1)

        @staticmethod
        def element(s, p):                      # one element; it takes what it needs of g, p, change and its array
            …                                   # what it changes, then its array

Where it needs what elements add up to, functions come before `element`, as in a rule:

        mean = State("…", per="unit", lasts=False)   # one number for each tensor, or each slice along the first axis
        total = Sum("Σ g", per="unit")               # over the same; there may be several

        def measure(s, …):                      # what an element adds to each, of what `element` takes but its number
        def settle(s, n, total, mean):          # in float64: the number, by the sums over n elements

Each such stage reads once more what it measures: the gradient, or before the change also weights and states.

    at = "gradient"   returns g, before the rule
    at = "before"     returns p, before the rule
    at = "change"     returns the change of p that the rule gave
    at = "after"      returns p, which has been changed
    at = "copy"       returns its array alone
    least_axes = 2    it leaves tensors of fewer axes alone
    at_times = True   it works in the steps that synchronise (every k-th one of `lookahead=(k, a)`), in no others

`h` has all these options by name (flags are 0 or 1) and what the step itself knows: `lr`, `lookahead`, which is a, and
`weight_decay` if it is not the rule's own. A stage without an array works where its numbers are not those that it has
if every option has its default; one with an array works in every step, if any of its options is given.
"""

import math

from fastupdate.rules.rule import CEILING, FLOOR, FRACTION, LIMIT, NON_NEGATIVE, SIZE, Flag, Hyper, State, Sum, scalars
from fastupdate.rules.scalar import absolute, maximum, positive_part, sign, sqrt, where


def clipped(x, low, high):
    """x, or the limit beyond which it lies; NaN stays NaN."""
    x = where(x > high, high, x)
    return where(x < low, low, x)


def approach(mean, value, weight):
    """A weighted mean that moves by `weight` towards the new value."""
    return mean + weight * (value - mean)


def decayed(h):
    """What weight decay outside the rule leaves of a weight: 1 − lr·λ, 1 − λ, or 1 − lr²·λ/peak_lr."""
    return 1 - (
        h.decoupled_decay * (h.lr * h.weight_decay)
        + h.independent_decay * h.weight_decay
        + h.corrected_decay * (h.lr * (h.lr / h.peak_lr) * h.weight_decay)
    )


class ClipValue:
    """low ≤ g ≤ high, and |g| ≤ clip_value."""

    at = "gradient"
    clip_value = Hyper(math.inf, LIMIT, "largest magnitude of an element of a gradient")
    clip_low = Hyper(-math.inf, FLOOR, "smallest value of an element of a gradient")
    clip_high = Hyper(math.inf, CEILING, "largest value of an element of a gradient")

    @staticmethod
    def prepare(h):
        return scalars(low=maximum(h.clip_low, -h.clip_value), high=-maximum(-h.clip_high, -h.clip_value))

    @staticmethod
    def element(s, g):
        return clipped(g, s.low, s.high)


class Centralize:
    """g ← g − its mean over all axes but the first: Yong et al. (ECCV 2020), as `optax.centralize`; vectors stay."""

    at = "gradient"
    least_axes = 2
    centralize = Flag("subtract the mean of each slice of a gradient along the first axis")
    mean = State("mean of a slice of the gradient", per="unit", lasts=False)
    total = Sum("Σ g", per="unit")

    @staticmethod
    def prepare(h):
        return scalars(centralize=h.centralize)

    @staticmethod
    def measure(s, g):
        return g

    @staticmethod
    def settle(s, n, total, mean):
        return total / n

    @staticmethod
    def element(s, g, mean):
        return g - mean


class Optimism:
    """g ← g + β·(g − the g of the step before): Daskalakis et al. (ICLR 2018), as `optax.optimistic_gradient_descent`.

    With γ·β₁/(1 − β₁) for β, and 1 for `optimism_norm`, it is the correction of MARS (Yuan et al., arXiv:2411.10438).
    """

    at = "gradient"
    optimism = Hyper(0.0, NON_NEGATIVE, "β, by which the gradient is extrapolated")
    previous = State("gradient of the step before", start=math.nan)  # there was none

    @staticmethod
    def prepare(h):
        return scalars(optimism=h.optimism)

    @staticmethod
    def element(s, g, previous):
        extrapolated = where(previous == previous, g + s.optimism * (g - previous), g)
        previous = g
        return extrapolated, previous


class OptimismNorm:
    """g ← g/max(1, ‖g‖/limit), the norm being of the tensor: how MARS clips what it has corrected."""

    at = "gradient"
    optimism_norm = Hyper(math.inf, SIZE, "largest norm of a tensor's extrapolated gradient")
    shrunk = State("what an extrapolated gradient is multiplied by", per="tensor", lasts=False)
    squares = Sum("‖g‖²", per="tensor")

    @staticmethod
    def prepare(h):
        return scalars(optimism_norm=h.optimism_norm)

    @staticmethod
    def measure(s, g):
        return g * g

    @staticmethod
    def settle(s, n, squares, shrunk):
        return 1.0 / maximum(1.0, sqrt(squares) / s.optimism_norm)

    @staticmethod
    def element(s, g, shrunk):
        return g * shrunk


class Penalty:
    """The gradient of ½·l2·p² + l1·|p|."""

    at = "gradient"
    l1 = Hyper(0.0, NON_NEGATIVE, "λ of a penalty on |w|")
    proximal = Flag("shrink weights by the penalty after the step")
    coupled_decay = Flag("weight decay joins the gradient")

    @staticmethod
    def prepare(h):
        return scalars(l2=h.coupled_decay * h.weight_decay, lasso=(1 - h.proximal) * h.l1)

    @staticmethod
    def element(s, g, p):
        return g + (s.l2 * p + s.lasso * sign(p))


class Decay:
    """Weight decay outside the rule: p ← (1 − x)·p, x being lr·λ, λ, or lr²·λ/peak_lr (Defazio, arXiv:2506.02285)."""

    at = "before"
    peak_lr = Hyper(math.inf, SIZE, "the largest learning rate, of corrected decay")
    decoupled_decay = Flag("weights shrink by lr·λ")
    independent_decay = Flag("weights shrink by λ")
    corrected_decay = Flag("weights shrink by lr²·λ/peak_lr")

    @staticmethod
    def prepare(h):
        return scalars(decay=decayed(h))

    @staticmethod
    def element(s, p):
        return p * s.decay


class Cautious:
    """Nothing moves along its gradient: Liang et al. (arXiv:2411.16085), algorithm 1 without the mean of its mask."""

    at = "change"
    cautious = Flag("leave out what would move along the gradient instead of against it")

    @staticmethod
    def prepare(h):
        return scalars(cautious=h.cautious)

    @staticmethod
    def element(s, g, change):
        return where(sign(change) * sign(g) < 0.0, change, change * 0.0)  # NaN stays NaN


class CautiousScale:
    """What a cautious step takes, made longer by what it leaves out: Liang et al., algorithm 1.

    By n/(k + 1), k of n elements being taken, as there; or by 1/max(k/n, 1e-3), as timm has it.
    """

    at = "change"
    cautious_count = Flag("make what is taken longer by n/(k + 1)")
    cautious_mean = Flag("make what is taken longer by 1/max(k/n, 1e-3)")
    longer = State("what the step of a tensor is multiplied by", per="tensor", lasts=False)
    taken = Sum("k, how many elements move", per="tensor")

    @staticmethod
    def prepare(h):
        return scalars(cautious_count=h.cautious_count)

    @staticmethod
    def measure(s, g, change):
        return positive_part(-(sign(change) * sign(g)))

    @staticmethod
    def settle(s, n, taken, longer):
        return where(s.cautious_count > 0.0, n / (taken + 1.0), 1.0 / maximum(taken / n, 1e-3))

    @staticmethod
    def element(s, change, longer):
        return change * longer


class TrustRatio:
    """change ← change·lr·‖p‖/‖change‖, the norms being of the tensor; it stays where either is 0.

    So You et al. (ICLR 2020) make steps lr times as long as weights are: `optax.scale_by_trust_ratio`.
    """

    at = "change"
    trust_ratio = Flag("a tensor's step is lr times as long as its weights")
    trust = State("what the step of a tensor is multiplied by", per="tensor", lasts=False)
    step_squares = Sum("‖change‖²", per="tensor")
    weight_squares = Sum("‖p‖²", per="tensor")

    @staticmethod
    def prepare(h):
        return scalars(relative=h.trust_ratio * h.lr)

    @staticmethod
    def measure(s, p, change):
        return change * change, p * p

    @staticmethod
    def settle(s, n, step_squares, weight_squares, trust):
        trust = where(step_squares > 0.0, s.relative * (sqrt(weight_squares) / sqrt(step_squares)), 1.0)
        return where(weight_squares > 0.0, trust, 1.0)

    @staticmethod
    def element(s, change, trust):
        return change * trust


class CautiousDecay:
    """p ← (1 − lr·λ)·p where the step does not enlarge |p|: Chen et al. (arXiv:2510.12402), algorithm 1."""

    at = "change"
    cautious_decay = Flag("weights shrink by lr·λ where they do not move away from zero")

    @staticmethod
    def prepare(h):
        return scalars(cautious_decay=h.cautious_decay * (h.lr * h.weight_decay))

    @staticmethod
    def element(s, p, change):
        return where(sign(change) * sign(p) > 0.0, change, change - s.cautious_decay * p)


class LateDecay:
    """p + change ← (1 − lr·λ)·(p + change): weight decay after the step, as thinc, and bitsandbytes on CUDA."""

    at = "change"
    after_decay = Flag("weights shrink by lr·λ when they have moved")

    @staticmethod
    def prepare(h):
        return scalars(after_decay=h.after_decay * (h.lr * h.weight_decay))

    @staticmethod
    def element(s, p, change):
        return change - s.after_decay * (p + change)


class KeepNorm:
    """p + change ← (p + change)·‖p‖/‖p + change‖, ‖p‖ being that of a tensor before the step; vectors move freely.

    With `trust_ratio` it is hyperball optimization (Wen et al. 2025): AdamH and MuonH of levanter.
    """

    at = "change"
    least_axes = 2
    keep_norm = Flag("the norm of a tensor's weights stays")
    kept = State("what the moved weights of a tensor are multiplied by", per="tensor", lasts=False)
    weight_squares = Sum("‖p‖²", per="tensor")
    moved_squares = Sum("‖p + change‖²", per="tensor")

    @staticmethod
    def prepare(h):
        return scalars(keep_norm=h.keep_norm, shrunk=decayed(h))

    @staticmethod
    def measure(s, p, change):
        moved = p + change
        return p * p, moved * moved

    @staticmethod
    def settle(s, n, weight_squares, moved_squares, kept):
        before = sqrt(weight_squares) / absolute(s.shrunk)
        kept = where(moved_squares > 0.0, before / sqrt(moved_squares), 1.0)
        return where(weight_squares > 0.0, kept, 1.0)

    @staticmethod
    def element(s, p, change, kept):
        return (p + change) * kept - p


class Shrink:
    """The proximal step of l1·|p|, soft thresholding: what is within the threshold becomes exactly zero."""

    at = "after"

    @staticmethod
    def prepare(h):
        return scalars(threshold=h.proximal * (h.lr * h.l1))

    @staticmethod
    def element(s, p):
        return p - clipped(p, -s.threshold, s.threshold)


class Lookahead:
    """slow ← slow + a·(p − slow) and p ← slow, in some steps: Zhang et al. (NeurIPS 2019)."""

    at = "after"
    at_times = True
    slow = State("slow weights", start="p")

    @staticmethod
    def prepare(h):
        return scalars(lookahead=h.lookahead)

    @staticmethod
    def element(s, p, slow):
        slow = approach(slow, p, s.lookahead)
        return slow, slow


class Average:
    """ema ← ema + (1 − ema_decay)·(p − ema)."""

    at = "copy"
    ema_decay = Hyper(0.0, FRACTION, "how much of the average of the weights stays")
    ema = State("moving average of the weights", start="p")

    @staticmethod
    def prepare(h):
        return scalars(average=1 - h.ema_decay)

    @staticmethod
    def element(s, p, ema):
        return approach(ema, p, s.average)
