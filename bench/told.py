"""What ranks that share tensors by rows tell each other in a step, worked out from the shapes: nothing is run.

A rank sums the blocks (or chunks of rows) that begin in its part; of one that reaches into another part it is lent the
elements. It tells all ranks what each phase of the step has come to, in as few nodes of the folding as there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import fastupdate as fu
from bench.workloads import Shape
from fastupdate.engines.records import SUMS
from fastupdate.rules.extent import matrix_of
from fastupdate.sharded.cells import cut, grids_of
from fastupdate.sharded.ranges import MANY, Range, nodes
from fastupdate.sharded.reader import WORDS
from fastupdate.sharded.words import Words

Counts = NDArray[np.int64]  # of each rank


class Phase(NamedTuple):
    """What is told at once: so many words of a node; of blocks, or of rows and columns too."""

    words: int
    most: int = MANY
    by_rows: bool = False
    by_columns: bool = False


class Kind(NamedTuple):
    """A step. lent: bytes of an element that is lent: of gradient, weight and states"""

    name: str
    lent: int
    phases: tuple[Phase, ...]


class Told(NamedTuple):
    """By the rank that sends most in a step.

    messages   of each rank to all others, or to each
    lent       bytes of elements, to who sums them
    told       bytes of sums, to all
    nodes      of one tensor at most
    """

    messages: int
    lent: int
    told: int
    nodes: int


def _of_rule(name: str, arrays: int) -> Kind:
    phases = fu.rules.get(name).rule.phases
    found = [Phase(len(p.sums), MANY, p.by_rows, bool(p.summed("column"))) for p in phases if p.measure is not None]
    return Kind(fu.rules.get(name).__name__, 4 * arrays, tuple(found))


NORMS = Kind("AdamW, clip_norm", 8, (Phase(WORDS.size, WORDS.most),))
_WATCHED = Words(SUMS.names or ())
KINDS = (
    NORMS,
    _of_rule("lamb", 4),
    _of_rule("adafactor", 2),
    Kind("AdamW, monitor", 16, (Phase(_WATCHED.size, _WATCHED.most),)),
)


def parts(shape: Shape, ranks: int) -> list[Range]:
    """The ranges of a tensor that is cut along its first axis into parts of equal length, the last ones shorter."""
    n, rows = prod(shape), shape[0]
    length, row = -(-rows // ranks), n // max(rows, 1)
    cuts = [min(k * length, rows) * row for k in range(ranks + 1)]
    return [Range(begin, end, n) for begin, end in pairwise(cuts)]


@cache
def _of_shape(kind: Kind, shape: Shape, ranks: int) -> tuple[Counts, Counts, int]:
    """Bytes that each rank lends of one tensor, and tells of it in each phase; and nodes of a range."""
    ranges, grids, most = parts(shape, ranks), grids_of(shape), 0
    lent, told = np.zeros(ranks, np.int64), np.zeros((len(kind.phases), ranks), np.int64)
    for grid in {int(phase.by_rows) for phase in kind.phases}:
        for cell in cut(0, grid, grids[grid], ranges):
            for piece in cell.pieces[0 if kind is NORMS else 1 :]:  # those of its owner stay where they are
                lent[piece.rank] += kind.lent * (piece.there.stop - piece.there.start)
            told[0, cell.owner] += 8 * WORDS.size * (kind is NORMS)  # a node of its own
    for phase, of_phase in zip(kind.phases, told, strict=True):
        of = grids[int(phase.by_rows)]
        for rank, r in enumerate(ranges):
            first, last = of.next(r.begin), of.next(r.end)
            count = len([*r.nodes(phase.most)] if kind is NORMS else nodes(first, last, of.alone, phase.most))
            most = max(most, count)
            if phase.by_rows:
                columns = matrix_of(shape)[1]
                count = (of.begin(last) - of.begin(first)) // columns + phase.by_columns * count * columns
            of_phase[rank] += 8 * phase.words * count
    return lent, told, most


def told(kind: Kind, shapes: Sequence[Shape], ranks: int) -> Told:
    """Of a step of these tensors; those without axes are whole on each rank."""
    found = [_of_shape(kind, shape, ranks) for shape in shapes if shape]
    lent, sums = (sum(each) for each in list(zip(*found, strict=True))[:2])
    lent, sums = int(lent.max()), int(sums.max(axis=1).sum())  # messages are as long as the longest
    most = max(nodes for _, _, nodes in found)
    if kind is NORMS:  # which open a step: the ranks' agreement (8 bytes) goes with the sums, or else with the elements
        return Told(len(kind.phases) + (lent > 0), lent, 8 + sums, most)
    return Told(len(kind.phases) + 1, 8 * ranks + lent, sums, most)
