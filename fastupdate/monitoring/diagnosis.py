"""What the figures of a training mean: kinds of trouble, each judged against what chance does (docs/monitoring.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fastupdate.monitoring import layers, overshooting, sudden
from fastupdate.monitoring.evidence import ENOUGH, Evidence
from fastupdate.monitoring.finding import Finding as Finding

Check = Callable[[Evidence], Finding | None]

PLAIN: tuple[Check, ...] = (  # without statistics, so from the first record on
    sudden.find_nonfinite_gradients,
    sudden.find_nonfinite_loss,
    sudden.find_growth,
    sudden.find_gradient_spike,
    sudden.find_loss_spike,
)
STATISTICAL: tuple[Check, ...] = (
    overshooting.find_rise,
    overshooting.find_long_steps,
    overshooting.find_opposition,
    layers.find_exploding_over_depth,
    layers.find_vanishing,
    layers.find_dead,
    layers.find_idle,
    layers.find_stalled,
    layers.find_standstill,
)
DEADLY = ("exploding", "overshooting", "diverging")


def diagnose(evidence: Evidence) -> list[Finding]:
    """Every trouble that the evidence shows; units that died of another trouble are told as a part of it."""
    checks = PLAIN + (STATISTICAL if len(evidence.window) >= ENOUGH else ())
    found = [finding for check in checks if (finding := check(evidence))]
    cause = next((finding for finding in found if finding.kind in DEADLY), None)
    if cause is None:
        return found
    died = "".join(f"; {finding.text}" for finding in found if finding.kind == "dead")
    told = [finding for finding in found if finding.kind != "dead"]
    return [replace(finding, text=finding.text + died) if finding is cause else finding for finding in told]
