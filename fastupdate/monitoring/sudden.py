"""Figures that are not finite, or suddenly large."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from fastupdate.monitoring import chance
from fastupdate.monitoring.evidence import ENOUGH, GROWTH, VISIBLE, WINDOW, Evidence, largest_gradients
from fastupdate.monitoring.finding import Finding, listed, make_finding
from fastupdate.monitoring.record import Record

SPIKE = 10.0  # times the largest norm before


def find_nonfinite_gradients(evidence: Evidence) -> Finding | None:
    """NaN or infinite gradients in a recent step."""
    lost = [record for record in evidence.records if not record.finite]
    if not lost:
        return None
    text = f"gradients were not finite in {len(lost)} of {len(evidence.records)} records, first in step {lost[0].step}"
    if lost[0].lost_tensors:
        text += f", there in {listed(lost[0].lost_tensors)}"
    if skipped := sum(record.skipped for record in lost):
        text += f"; {skipped} of these steps were skipped"
    return make_finding("nonfinite", evidence, lost[0].lost_tensors, text, "no noise does that", "nonfinite gradients")


def find_nonfinite_loss(evidence: Evidence) -> Finding | None:
    """A loss that is NaN or infinite, though the gradients are finite."""
    lost = [r for r in evidence.records if r.finite and r.loss is not None and not math.isfinite(r.loss)]
    if not lost:
        return None
    text = (
        f"the loss was {lost[0].loss} in step {lost[0].step}, in all not finite in {len(lost)} of "
        f"{len(evidence.records)} records, although every gradient there was finite"
    )
    return make_finding("nonfinite", evidence, (), text, "no noise does that", "nonfinite loss")


def find_growth(evidence: Evidence) -> Finding | None:
    """Exploding: the norm reached 100 times the calmest level before.

    A norm that grows while the loss falls may be that of a network that leaves a plateau. So it must have jumped in one
    step of the window, or the loss must not have profited from it, or units must have died.
    """
    peak = evidence.memory.peak
    if peak is None or peak.growth <= GROWTH or not len(evidence.window):
        return None
    rise, after = evidence.rise, evidence.after(peak.start)
    harmed = evidence.killed or (rise is not None and rise.lost)
    unknown = rise is None and (not len(after) or bool(np.isnan(after).any()) or math.isnan(peak.loss_before))
    if len(after) and evidence.window[0].step <= peak.start:
        harmed |= peak.sudden or bool(np.median(after) >= peak.loss_before)
    if not (harmed or unknown):
        return None
    text = (
        f"the gradient norm reached {peak.grad_norm:.3g} in step {peak.step}, {peak.growth:.3g} times the "
        f"{peak.calm:.3g} of the calmest records before, most of it in {listed(peak.tensors)}"
    )
    if rise is not None and rise.lost:
        text += f"; the loss, once {rise.best:.3g}, now is {rise.now:.3g}"
    noise = f"more than {GROWTH:g} times, where clipping thresholds are usually 0.5 to 10 times"
    return make_finding("exploding", evidence, peak.tensors, text, noise, "exploding")


def find_gradient_spike(evidence: Evidence) -> Finding | None:
    """Spike: a norm above 10 times (below: 100) the fifty before, farther than their tail leads to expect."""
    for record, before in recent_first(evidence):
        norm, past = record.grad_norm_spread[2], np.array([r.grad_norm_spread[2] for r in before])
        past = past[past > 0]
        if not len(past) or not SPIKE < norm / past.max() <= GROWTH:
            continue
        p = chance.excess(math.log(norm), np.log(past))
        lowest = min(r.level for r in before[-ENOUGH:])
        if p < chance.RARE and not np.median(evidence.after(record.step)) < lowest:
            names = largest_gradients(record)
            text = (
                f"the gradient norm jumped to {norm:.3g} in step {record.step}, from at most {past.max():.3g} in "
                f"{len(before)} records before, most of it in {listed(names)}"
            )
            return make_finding("spike", evidence, names, text, _rarely(p, "Pareto"), "spike")
    return None


def find_loss_spike(evidence: Evidence) -> Finding | None:
    """Spike: a loss above the fifty before, visibly, and farther than their tail leads to expect.

    Visibly: by a tenth of it, and of what had been gained.
    """
    rise = evidence.rise
    gain = 0.0 if rise is None else max(rise.first - rise.best, 0.0)
    for record, before in recent_first(evidence):
        loss, past = record.loss_spread[2], np.array([r.loss_spread[2] for r in before])
        past = past[np.isfinite(past)]
        if not (len(past) and past.max() + VISIBLE * max(abs(past.max()), gain) < loss < math.inf):
            continue
        p = chance.excess(loss, past)
        if p < chance.RARE:
            text = (
                f"the loss jumped to {loss:.3g} in step {record.step}, from at most {past.max():.3g} in {len(before)} "
                f"records before"
            )
            return make_finding("spike", evidence, (), text, _rarely(p, "exponential"), "spike")
    return None


def recent_first(evidence: Evidence) -> Iterator[tuple[Record, Sequence[Record]]]:
    """Each record of the window, with as many as a window before it, as far as there are."""
    usable = evidence.usable
    for k in range(len(usable) - 1, len(usable) - 1 - len(evidence.window), -1):
        yield usable[k], usable[max(k - WINDOW, 0) : k]


def _rarely(p: float, tail: str) -> str:
    shown = "never" if p < 1e-300 else f"with a probability of {p:.1g}"
    return f"noise with the {tail} tail of the records before comes so far {shown}"
