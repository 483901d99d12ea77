"""What a diagnosis says: one trouble, its figures, what they were judged against, and what to try."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastupdate.monitoring.evidence import Evidence

Kind = Literal["nonfinite", "exploding", "spike", "vanishing", "overshooting", "diverging", "dead", "stalled"]

REMEDIES = {
    "nonfinite gradients": (
        'nonfinite="skip" if it is rare, clip_norm or a smaller learning rate if the norm grew before, and look for '
        "log(0), 0/0 and float16 overflow in the loss"
    ),
    "nonfinite loss": "to find log(0), 0/0 or an overflow in the loss or in the data of that step",
    "exploding": "clip_norm, a warm-up or a smaller learning rate, normalisation, or smaller initial weights",
    "spike": "to look at the data of that step; clip_norm, or a longer memory of second moments (beta2)",
    "vanishing": "another initialisation or activation, normalisation, or residual connections",
    "overshooting": "a learning rate 3 to 10 times smaller, or a warm-up",
    "diverging": (
        "a learning rate 3 to 10 times smaller; if steps are small already, check the sign of the gradients (maximize) "
        "and whether the data have changed"
    ),
    "dead": "a smaller learning rate, another initialisation, or an activation that leaks; a new start of those units",
    "stalled": "float64 weights, smaller weights, or a larger learning rate with larger batches",
    "still": "a learning rate above 0, and look whether everything is frozen or the schedule has ended",
}


@dataclass(frozen=True)
class Finding:
    """One trouble.

    kind     one of nonfinite, exploding, spike, vanishing, overshooting, diverging, dead, stalled
    tensors  the names of those that show it
    text     the figures in a sentence
    steps    first and last step of the records that it was judged by
    records  how many these are
    noise    what it was judged against
    remedy   what to try
    """

    kind: Kind
    tensors: tuple[str, ...]
    text: str
    steps: tuple[int, int]
    records: int
    noise: str
    remedy: str

    def __str__(self) -> str:
        judged = f"{self.records} records of steps {self.steps[0]} to {self.steps[1]}; {self.noise}"
        return f"{self.kind}: {self.text} ({judged}). Try {self.remedy}."


def make_finding(
    kind: Kind, evidence: Evidence, tensors: tuple[str, ...], text: str, noise: str, remedy: str
) -> Finding:
    """Judged by the window; what is not finite, by the last records."""
    records = evidence.window if kind != "nonfinite" else evidence.records
    return Finding(kind, tensors, text, (records[0].step, records[-1].step), len(records), noise, REMEDIES[remedy])


def listed(names: tuple[str, ...], most: int = 6) -> str:
    """Names as they stand in a sentence."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more tensors"
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
