"""What the figures of a training mean: five kinds of trouble, each a formula over the last recorded steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["vanishing", "exploding", "overshooting", "dead", "stalled"]
Floats = NDArray[np.float64]
Choice = NDArray[np.bool_]

WINDOW = 50  # records that a diagnosis looks back on
ENOUGH = 10  # with fewer, only gradients that are not finite count
START = 10  # records that are the beginning of the training
DEPTH = 1e3  # between the gradients of a layer and those at the output
GROWTH = 100.0  # of the gradient norm; Pascanu et al. (2013), section 3.2, clip it at 0.5 to 10 times its average
USUAL_RATIO = 1e-3  # ‖Δ‖ / ‖w‖: Karpathy, CS231n, "Ratio of weights:updates"
LARGE_RATIO = 3e-2
OPPOSED = -0.5  # cosine of gradient and momentum; O'Donoghue & Candès (2015), section 3.2, restart a momentum below 0
LOST = 0.5  # share of the updates that rounding loses


@dataclass(frozen=True)
class Finding:
    """One trouble: its kind, the names of the tensors that show it, and the figures in a sentence."""

    kind: Kind
    tensors: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@dataclass(frozen=True)
class Evidence:
    """What a diagnosis looks at.

    steps, loss, grad_norm, tensors
        of the last k records whose gradients were finite: number of the step, loss (NaN: unknown), norm over all
        tensors, and their statistics, (k, tensors)
    first_loss, first_grad_norm
        the loss of the first record of the training, and the norms of the first START
    recorded, lost_steps, lost_tensors
        how many of the WINDOW last records there are; the steps among them whose gradients were not finite, and the
        tensors (if known) in the first of these
    """

    steps: NDArray[np.int64]
    loss: Floats
    grad_norm: Floats
    tensors: NDArray[np.void]
    first_loss: float
    first_grad_norm: Floats
    recorded: int
    lost_steps: list[int]
    lost_tensors: tuple[str, ...]

    def names(self, chosen: Choice) -> tuple[str, ...]:
        """The names of the chosen tensors."""
        return tuple(map(str, self.tensors["name"][-1][chosen]))

    def span(self, start: int = 0) -> str:
        """The steps, in words."""
        return f"steps {self.steps[start]} to {self.steps[-1]}"

    def gradient_rms(self) -> Floats:
        """Root mean square of each tensor's gradients other than 0; median of the steps."""
        filled = self.tensors["n"] * (1 - self.tensors["zero_fraction"])
        return np.asarray(np.median(self.tensors["grad_norm"] / np.sqrt(np.fmax(filled, 1)), axis=0))


def diagnose(evidence: Evidence) -> list[Finding]:
    """Every trouble that the evidence shows."""
    checks = [find_nonfinite]
    if len(evidence.steps) >= ENOUGH:
        checks += [find_growth, find_overshooting, find_opposition]
        checks += [find_exploding_over_depth, find_vanishing, find_dead, find_stalled]
    return [finding for check in checks if (finding := check(evidence))]


def find_nonfinite(evidence: Evidence) -> Finding | None:
    """Exploding: NaN or infinite gradients in a recent step."""
    steps = evidence.lost_steps
    if not steps:
        return None
    text = (
        f"gradients were not finite in {len(steps)} of the last {evidence.recorded} records, first in step {steps[0]}"
    )
    if evidence.lost_tensors:
        text += f", there in {listed(evidence.lost_tensors)}"
    return Finding("exploding", evidence.lost_tensors, text)


def find_growth(evidence: Evidence) -> Finding | None:
    """Exploding: max ‖g‖ > 100 · (median ‖g‖ of the beginning)."""
    first = float(np.median(evidence.first_grad_norm))
    k = int(evidence.grad_norm.argmax())
    largest = float(evidence.grad_norm[k])
    if not 0 < GROWTH * first < largest:
        return None
    names = evidence.names(evidence.tensors["grad_norm"][k] > 0.1 * largest)
    text = (
        f"the gradient norm reached {largest:.2g} in step {evidence.steps[k]}, {largest / first:.2g} times the "
        f"{first:.2g} of the beginning, most of it in {listed(names)}"
    )
    return Finding("exploding", names, text)


def find_overshooting(evidence: Evidence) -> Finding | None:
    """Overshooting: the loss rises while ‖Δ‖ > 0.03 · ‖w‖ over all tensors (medians of the later half of the steps).

    It rises if its median in the later half is above the first loss of all, or above every loss of the earlier half.
    """
    half = len(evidence.loss) // 2
    later = float(np.median(evidence.loss[half:]))
    before = float(np.fmin(evidence.loss[:half].max(), evidence.first_loss))
    weight, update = (np.linalg.norm(evidence.tensors[half:][f"{name}_norm"], axis=1) for name in ("weight", "update"))
    if not (later > before and np.median(update) > LARGE_RATIO * np.median(weight)):
        return None
    names = evidence.names(np.median(evidence.tensors[half:]["update_ratio"], axis=0) > LARGE_RATIO)
    text = (
        f"the loss rises, to a median of {later:.3g} in {evidence.span(half)} from {before:.3g} before, and a step "
        f"changes the weights by {np.median(update) / np.median(weight):.2g} of their norm (usual: {USUAL_RATIO:g}), "
        f"most of all {listed(names)}"
    )
    return Finding("overshooting", names, text)


def find_opposition(evidence: Evidence) -> Finding | None:
    """Overshooting: median cosine of gradient and momentum < −0.5 with ‖Δ‖ > 10⁻³ · ‖w‖, and the loss does not fall.

    It falls if its median in the later half of the steps is below every loss of the earlier half.
    """
    half = len(evidence.loss) // 2
    lowest, later = evidence.loss[:half].min(), np.median(evidence.loss[half:])
    if later < lowest:
        return None
    cosine = np.median(np.nan_to_num(evidence.tensors["momentum_cosine"]), axis=0)
    opposed = (cosine < OPPOSED) & (np.median(evidence.tensors["update_ratio"], axis=0) > USUAL_RATIO)
    if not opposed.any():
        return None
    names = evidence.names(opposed)
    text = (
        f"steps go back and forth in {listed(names)}: the gradient opposes the momentum, with a median cosine down to "
        f"{cosine[opposed].min():.2f} in {evidence.span()}"
    )
    if later >= lowest:
        text += f", and the loss does not fall (median {later:.3g}, before as low as {lowest:.3g})"
    return Finding("overshooting", names, text)


def find_exploding_over_depth(evidence: Evidence) -> Finding | None:
    """Exploding: RMS of the gradients > 10³ · RMS at the output (see `output_rms`)."""
    rms = evidence.gradient_rms()
    output = output_rms(rms)
    return _over_depth("exploding", evidence, rms, output, (output > 0) & (rms > DEPTH * output))


def find_vanishing(evidence: Evidence) -> Finding | None:
    """Vanishing: from the first tensor to this one every RMS of gradients < 10⁻³ · RMS at the output.

    Every one, for a lone small gradient is natural: that of a bias in front of a normalisation, for example.
    """
    rms = evidence.gradient_rms()
    output = output_rms(rms)
    return _over_depth("vanishing", evidence, rms, output, (rms > 0) & (DEPTH * np.maximum.accumulate(rms) < output))


def output_rms(rms: Floats) -> float:
    """The largest in the last quarter of the tensors, which should be in the order of the layers; NaN: too few."""
    return float(rms[-len(rms) // 4 :].max()) if len(rms) >= 4 else np.nan


def _over_depth(kind: Kind, evidence: Evidence, rms: Floats, output: float, chosen: Choice) -> Finding | None:
    if not chosen.any():
        return None
    names = evidence.names(chosen)
    verb = "fade" if kind == "vanishing" else "grow"
    text = (
        f"gradients {verb} on their way back to {listed(names)}: their RMS is {rms[chosen][0]:.2g} in {names[0]}, "
        f"{rms[chosen][0] / output:.2g} times the {output:.2g} at the output (median of {evidence.span()})"
    )
    return Finding(kind, names, text)


def find_dead(evidence: Evidence) -> Finding | None:
    """Dead: every gradient of the tensor was exactly 0 in every step."""
    dead = (evidence.tensors["zero_fraction"] == 1).all(axis=0)
    if not dead.any():
        return None
    names = evidence.names(dead)
    return Finding("dead", names, f"every gradient of {listed(names)} was 0 in {evidence.span()}")


def find_stalled(evidence: Evidence) -> Finding | None:
    """Stalled: of the elements that have a gradient, rounding lost the update of more than half (median of the steps).

    `stalled` also counts elements without a gradient whose momentum fades away; all that there can be are taken off.
    """
    tensors = evidence.tensors
    zeros = np.nan_to_num(tensors["zero_fraction"]) * tensors["n"]
    with np.errstate(invalid="ignore", divide="ignore"):
        lost = np.nan_to_num(np.median((tensors["stalled"] - zeros) / (tensors["n"] - zeros), axis=0))
    stalled = lost > LOST
    if not stalled.any():
        return None
    names, worst = evidence.names(stalled), int(lost.argmax())
    text = (
        f"rounding loses most updates of {listed(names)}: w + Δ = w for {np.median(tensors['stalled'][:, worst]):.0f} "
        f"of the {tensors['n'][-1, worst]} weights in {tensors['name'][-1, worst]} (median of {evidence.span()})"
    )
    return Finding("stalled", names, text)


def listed(names: tuple[str, ...], most: int = 6) -> str:
    """Names as they stand in a sentence."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more tensors"
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
