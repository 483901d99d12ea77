"""How far results may be from a reference, in units in the last place, and why.

An ulp is that of the compute type at the largest magnitude that the element has had: weights pass through zero, where
an ulp of the value at hand says nothing.
"""

from __future__ import annotations

import numpy as np

# Against torch, Keras and optax, 12 steps, float32 and float64 alike. Each side rounds the weight once or twice a step
# and the update to a few of its own ulp, in another order; torch's AdamW also rounds 1 − αλ to the compute type, half
# an ulp of the weight in every step. 12 ulp are 2.7e-15 of a float64.
PEER = 12.0
# The same where steps and weights are scaled to norms, whose squares optax adds up in float32.
PEER_NORMS = 24.0
# Against the same rule in a wider type. The weight is rounded once a step, so errors grow like a random walk: √steps
# times a third of an ulp, and a small multiple of it where the errors of scalars (β, 1 − β, α) pull one way.
TEN_THOUSAND_STEPS = 100.0
SOAK = 320.0  # 10⁵ steps
# Norms, relative: torch sums float32 in float32, a few thousand terms here; 1e-6 is also its clipping constant.
NORM = {np.float32: 1e-5, np.float64: 1e-12}


class Drift:
    """The largest distance that one array has ever had from its reference, in ulp."""

    def __init__(self, start: np.ndarray) -> None:
        self.magnitude = np.abs(start)
        self.worst = 0.0

    def compare(self, actual: np.ndarray, reference: np.ndarray) -> None:
        assert np.isfinite(actual).all()
        self.magnitude = np.maximum(self.magnitude, np.abs(actual))
        wide = np.longdouble if actual.dtype == np.float64 else np.float64
        distance = np.abs(actual.astype(wide) - reference.astype(wide)) / np.spacing(self.magnitude)
        self.worst = max(self.worst, float(distance.max(initial=0.0)))
