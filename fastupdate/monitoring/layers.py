"""Layers that do not learn: their gradients fade, explode or are 0, or rounding loses their updates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastupdate.monitoring import chance
from fastupdate.monitoring.evidence import ENOUGH, VISIBLE, Evidence
from fastupdate.monitoring.finding import Finding, Kind, listed, make_finding

Floats = NDArray[np.float64]
Choice = NDArray[np.bool_]

OUTPUT = 2  # tensors at the end of the list: weights and bias of the last layer
DEPTH = 1e3  # between the gradients of a layer and those at the output
LOST = 0.5  # share of the updates that rounding loses
ROUNDED = 2.0**-11  # √N · 2⁻²⁴: what rounding leaves of a sum of N = 2²⁶ float32 numbers that cancel
FADED = 1e-2  # of the highest lr · ‖g‖
IDLE = 2 / 3  # share of the units of a layer


def find_exploding_over_depth(evidence: Evidence) -> Finding | None:
    """Exploding: from the first tensor to this one every RMS of gradients > 10³ · the largest at the output."""
    rms = gradient_rms(evidence.tensors)
    output = rms[:, -OUTPUT:].max(axis=1, keepdims=True)
    return _over_depth("exploding", evidence, rms, output, (output > 0) & (rms > DEPTH * output))


def find_vanishing(evidence: Evidence) -> Finding | None:
    """Vanishing: from the first tensor to this one every RMS of gradients < 10⁻³ · the smallest at the output."""
    rms = gradient_rms(evidence.tensors)
    output = rms[:, -OUTPUT:].min(axis=1, keepdims=True)
    return _over_depth("vanishing", evidence, rms, output, (rms > 0) & (DEPTH * rms < output))


def gradient_rms(tensors: NDArray[np.void]) -> Floats:
    """Root mean square of the gradients other than 0 of each record and tensor."""
    filled = tensors["n"] * (1 - tensors["zero_fraction"])
    return np.asarray(tensors["grad_norm"] / np.sqrt(np.fmax(filled, 1)))


def _over_depth(kind: Kind, evidence: Evidence, rms: Floats, output: Floats, far: Choice) -> Finding | None:
    """The chain of tensors from the first one on that are far from the output in most records; two are the least."""
    chosen = np.logical_and.accumulate(chance.mostly(far))
    chosen[-OUTPUT:] = False
    if chosen.sum() < 2:
        return None
    names, verb = evidence.names(chosen), "fade" if kind == "vanishing" else "grow"
    first, last = float(np.median(rms[:, 0])), float(np.median(output))
    text = (
        f"gradients {verb} on their way back to {listed(names)}: their RMS is {first:.2g} in {names[0]}, "
        f"{first / last:.2g} times the {last:.2g} at the output"
    )
    sure, needed = int(far[:, chosen].sum(axis=0).min()), chance.majority(len(far))
    noise = f"by more than {DEPTH:g} in {sure} of them, {needed} or more are beyond chance"
    return make_finding(kind, evidence, names, text, noise, kind)


def find_dead(evidence: Evidence) -> Finding | None:
    """Dead: every gradient of the tensor was exactly 0 in every record, unless so was the loss.

    Overshooting if some of them had gradients at first, and most losses now are visibly above the first one.
    """
    dead = evidence.dead
    if not dead.any() or (dead.all() and (evidence.loss == 0).all()):
        return None
    names, first = evidence.names(dead), evidence.memory.first_loss
    text = f"every gradient of {listed(names)} was 0"
    if dead.all():
        known = np.isfinite(evidence.loss).all()
        text += f", while the loss is {np.median(evidence.loss):.3g}" if known else ", which is right at a minimum only"
    if evidence.killed and chance.mostly(evidence.loss > first + VISIBLE * abs(first)):
        text += f"; it was not at first, when the loss was {first:.3g}, not {np.nanmedian(evidence.loss):.3g} as now"
        return make_finding("overshooting", evidence, names, text, "exact zeros, in every one", "overshooting")
    return make_finding("dead", evidence, names, text, "exact zeros, in every one", "dead")


def find_idle(evidence: Evidence) -> Finding | None:
    """Dead: more than two thirds of a layer's units get next to no gradient."""
    shares = {name: share for name, share in dead_units(evidence).items() if IDLE < share < 1}
    if not shares:
        return None
    names = tuple(shares)
    text = f"units are idle: {', '.join(f'{share:.0%} of those of {name}' for name, share in shares.items())}"
    noise = f"no fewer in 999 of {1 / chance.ALPHA:.0f} looks, if units rest independently of each other"
    return make_finding("dead", evidence, names, text, noise, "dead")


def dead_units(evidence: Evidence) -> dict[str, float]:
    """The share of units that get next to no gradient, of each tensor that has a number for each hidden unit.

    That is a vector between two larger tensors whose sizes are multiples of its own: a bias, a scale or an offset; the
    weights of a single output behind it are as large as it is. The units at work are counted by
    `chance.units_at_work`, in which one that works seldom counts for little.
    """
    shares: dict[str, float] = {}
    if len(evidence.window) < ENOUGH:
        return shares
    zero, sizes = evidence.tensors["zero_fraction"], evidence.tensors["n"][-1]
    for k, units in enumerate(sizes):
        larger = np.flatnonzero(sizes > units)
        before, after = larger[larger < k][-1:], larger[larger > k][:1]
        if k + 1 in range(len(sizes) - OUTPUT, len(sizes)) and sizes[k + 1] == units:
            after = np.array([k + 1])  # the weights of a single output
        if len(before) and len(after) and not (sizes[before[0]] % units or sizes[after[0]] % units):
            at_work = chance.units_at_work((1 - zero[:, k]) * units, int(units))
            shares[str(evidence.tensors["name"][-1, k])] = float(min(1 - at_work / units, zero[:, k].min()))
    return shares


def find_stalled(evidence: Evidence) -> Finding | None:
    """Stalled: of the elements that have a gradient, rounding lost the update of more than half in most records.

    `stalled` also counts elements without a gradient whose momentum fades away; all that there can be are taken off.
    Not where the gradient is itself within what rounding leaves of a sum that cancels, as that of a bias in front of a
    normalisation; nor where lr · ‖g‖ has come down to a hundredth, by a schedule or because training has converged.
    """
    tensors, rms = evidence.tensors, gradient_rms(evidence.tensors)
    filled = tensors["n"] * (1 - np.nan_to_num(tensors["zero_fraction"]))
    lost = tensors["stalled"] - (tensors["n"] - filled) > LOST * np.fmax(filled, 0.5)
    real = rms > ROUNDED * rms.max(axis=1, keepdims=True)
    driven = evidence.history["lr"] * evidence.history["grad_norm"] >= FADED * evidence.memory.drive
    stalled = chance.mostly(lost & real & driven[:, None])
    if not stalled.any():
        return None
    names, share = evidence.names(stalled), np.median(tensors["stalled"] / tensors["n"], axis=0)
    worst = int(np.where(stalled, share, -1).argmax())
    text = (
        f"rounding loses most updates of {listed(names)}: w + Δ = w for {np.median(tensors['stalled'][:, worst]):.0f} "
        f"of the {tensors['n'][-1, worst]} weights in {tensors['name'][-1, worst]}"
    )
    noise = f"so in {int(lost[:, stalled].sum(axis=0).min())} of them, "
    noise += f"{chance.majority(len(lost))} or more are beyond chance"
    return make_finding("stalled", evidence, names, text, noise, "stalled")


def find_standstill(evidence: Evidence) -> Finding | None:
    """Stalled: no weight moved at all, though there were gradients and rounding lost none."""
    tensors = evidence.tensors
    if tensors["update_norm"].any() or tensors["stalled"].any() or not (evidence.history["grad_norm"] > 0).all():
        return None
    text = f"no weight moved, though gradients had a norm of {np.median(evidence.history['grad_norm']):.2g}: "
    text += f"the learning rate is {evidence.history['lr'][-1]:.2g}"
    return make_finding("stalled", evidence, tuple(evidence.window[-1].names), text, "exact zeros", "still")
