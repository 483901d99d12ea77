"""Steps that are too long: the loss rises, or does not fall because of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastupdate.monitoring import chance
from fastupdate.monitoring.evidence import Evidence
from fastupdate.monitoring.finding import Finding, Kind, listed, make_finding

Floats = NDArray[np.float64]

USUAL_RATIO = 1e-3  # ‖Δ‖ / ‖w‖: Karpathy, CS231n, "Ratio of weights:updates"
LARGE_RATIO = 1e-2
OPPOSED = -0.5  # correlation of successive gradients where a step leads just to the bottom of the valley
POLYAK = 1.0  # times the step after which the loss would be 0, were it linear: Polyak's
LITTLE = 0.5  # share of the first loss
LEARNT = 0.1  # of the first loss


def find_rise(evidence: Evidence) -> Finding | None:
    """The loss lost more than half of what it had gained: overshooting if steps are or were long, else diverging.

    Long: ‖Δ‖ > 0.01 · ‖w‖ over all tensors, in the median; or once half of ‖w‖, and the loss has been above the first
    one ever since.
    """
    rise = evidence.rise
    if rise is None or not rise.lost:
        return None
    weight, update = evidence.overall("weight_norm"), evidence.overall("update_norm")
    ratio = float(np.median(update) / np.median(weight))
    if ratio == 0:
        return None
    kind: Kind = "overshooting" if ratio > LARGE_RATIO or rise.above_first else "diverging"
    names = evidence.names(np.median(evidence.tensors["update_ratio"], axis=0) >= ratio)
    text = (
        f"the loss is {rise.now:.3g}, after {rise.best:.3g} at best and {rise.first:.3g} at first, and a step changes "
        f"the weights by {ratio:.2g} of their norm (usual: {USUAL_RATIO:g}), most of all {listed(names)}"
    )
    noise = f"loss ± {evidence.loss_noise:.2g}, {rise.z:.1f} standard deviations above the best block by the rank sum"
    if rise.log_z:
        noise += f" and {rise.log_z:.1f} above the first"
    return make_finding(kind, evidence, names, text, noise, kind)


def find_long_steps(evidence: Evidence) -> Finding | None:
    """Overshooting: −g·Δ > loss in most records, and the loss, never below 0, neither falls nor has halved.

    Where it does not fall, −g·Δ is on average 2 to 4 times what the length of the steps adds to the loss.
    """
    rise = evidence.rise
    if rise is None or evidence.loss.min() < 0 or evidence.falling or rise.now <= LITTLE * rise.first:
        return None
    descent = expected_descent(evidence.tensors)
    if descent is None or not chance.mostly(descent > POLYAK * evidence.loss):
        return None
    each = np.median(expected_descents(evidence.tensors), axis=0)
    names = evidence.names(each > 0.1 * each.max())
    long, needed = int((descent > POLYAK * evidence.loss).sum()), chance.majority(len(descent))
    text = (
        f"by its slope a step lowers the loss by {np.median(descent):.3g}, but there are only {rise.now:.3g} to lose; "
        f"the loss began with {rise.first:.3g} and does not fall, and most of that goes to {listed(names)}"
    )
    noise = f"−g·Δ > loss in {long} of them, {needed} or more are beyond chance; "
    noise += f"loss ± {evidence.loss_noise:.2g}"
    return make_finding("overshooting", evidence, names, text, noise, "overshooting")


def expected_descent(tensors: NDArray[np.void]) -> Floats | None:
    """−g·Δ of each record, over all tensors; None where it cannot be known."""
    each = expected_descents(tensors)
    return None if np.isnan(each).any() else np.asarray(each.sum(axis=1))


def expected_descents(tensors: NDArray[np.void]) -> Floats:
    """−g·Δ of each record and tensor."""
    lengths = tensors["grad_norm"] * tensors["update_norm"]
    return np.asarray(np.where(lengths == 0, 0.0, -tensors["update_cosine"] * lengths))


def find_opposition(evidence: Evidence) -> Finding | None:
    """Overshooting: mean cosine of gradient and momentum < −½ beyond chance, ‖Δ‖ > 10⁻³ · ‖w‖, and no falling loss.

    Not where the loss is down to a tenth of the first one: there is little left to lose.
    """
    rise = evidence.rise
    if evidence.falling or (rise is not None and 0 <= rise.now < LEARNT * rise.first):
        return None
    tensors = evidence.tensors
    cosine = np.nan_to_num(tensors["momentum_cosine"])
    bound = chance.mean_bound(cosine, chance.ALPHA / cosine.shape[1])
    opposed = (bound < OPPOSED) & (np.median(tensors["update_ratio"], axis=0) > USUAL_RATIO)
    if not opposed.any():
        return None
    names, mean = evidence.names(opposed), cosine.mean(axis=0)[opposed]
    text = (
        f"steps go back and forth in {listed(names)}: gradient and momentum have a mean cosine down to {mean.min():.2f}"
    )
    noise = f"by chance below {OPPOSED:g} only in one look of {1 / chance.ALPHA:.0f}"
    if np.isfinite(evidence.loss).all():
        half = len(evidence.loss) // 2
        early, late = np.median(evidence.loss[:half]), np.median(evidence.loss[half:])
        text += f", and the loss does not fall (half by half {early:.3g} and {late:.3g})"
        noise += f"; loss ± {evidence.loss_noise:.2g}"
    return make_finding("overshooting", evidence, names, text, noise, "overshooting")
