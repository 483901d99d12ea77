"""What a monitor writes: JSON lines, and event files for TensorBoard."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from fastupdate.arrays.memory import Assignment
from fastupdate.monitoring.record import FIGURES, NAMES, Record

NEEDED = "pip install fastupdate[tensorboard]"
SCALARS = ("loss", "grad_norm", "lr", "clip_factor")
HEAD = Record._fields.index("steps")  # the fields before are those of the step itself


class Files:
    """`metrics.jsonl` and an event file, both added to in every record. Arguments: Monitor."""

    def __init__(self, directory: Path, tensorboard: bool | None) -> None:
        writer = None if tensorboard is False else _event_writer(must=tensorboard is True)
        directory.mkdir(parents=True, exist_ok=True)
        self._lines: TextIO = (directory / "metrics.jsonl").open("a", encoding="utf-8", buffering=1)
        try:
            self._events = None if writer is None else writer(str(directory), flush_secs=10)
        except BaseException:
            self._lines.close()
            raise

    def writing(self, record: Record) -> Assignment:
        """Adds an event; the call that adds the line is left to be made together with others."""
        line = json_line(record) + "\n"
        if self._events is not None:
            from tensorboardX.proto.summary_pb2 import Summary

            values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars(record).items()]
            self._events.add_summary(Summary(value=values), record.step)
        return (self._lines.write, line)

    def close(self) -> None:
        try:
            self._lines.close()
        finally:
            if self._events is not None:
                self._events.close()


def _event_writer(must: bool) -> Any:
    try:
        from tensorboardX import FileWriter
    except ImportError as error:
        if must:
            raise ImportError(f"[monitor] tensorboard: event files need tensorboardX; {NEEDED}") from error
        warnings.warn(
            "[monitor] directory: metrics.jsonl is written, but no event file for TensorBoard, which needs "
            f"tensorboardX ({NEEDED}); tensorboard=False asks for none",
            stacklevel=4,
        )
        return None
    return FileWriter


def scalars(record: Record) -> dict[str, float]:
    """The curves of TensorBoard, by tag: train/<figure>, then tensors of the weights, weights.<figure>/<tensor>.

    TensorBoard sorts groups of cards by name, so `train` comes first. Undefined cosines are left out.
    """
    tags: dict[str, float] = {f"train/{name}": getattr(record, name) for name in SCALARS}
    if record.loss is None:
        del tags["train/loss"]
    if record.steps > 1:
        for name in ("loss", "grad_norm")[record.loss is None :]:
            low, _, high = getattr(record, f"{name}_spread")
            tags |= {f"train/{name}_min": low, f"train/{name}_max": high}
    for figure in FIGURES:
        for name, value in zip(record.tensors["name"], record.tensors[figure], strict=True):
            if not (figure.endswith("cosine") and math.isnan(value)):
                tags[f"weights.{figure}/{name}"] = value
    return tags


def json_line(record: Record) -> str:
    """The record as one line of JSON. JSON has no NaN and no infinity: they become "NaN", "Infinity", "-Infinity"."""
    line = _json_values(Record._fields[:HEAD], record[:HEAD])
    line["tensors"] = {row[0]: _json_values(NAMES[1:], row[1:]) for row in record.tensors.tolist()}
    if record.steps > 1:
        tensors = {
            str(row["name"]): {figure: [_json_value(value) for value in row[figure].tolist()] for figure in FIGURES}
            for row in record.spread
        }
        overall = {name: [_json_value(value) for value in getattr(record, f"{name}_spread")] for name in SCALARS[:2]}
        line["spread"] = {"steps": record.steps, **overall, "tensors": tensors}
    return json.dumps(line, allow_nan=False, ensure_ascii=False)


def _json_values(names: tuple[str, ...], values: tuple[Any, ...]) -> dict[str, Any]:
    return {name: _json_value(value) for name, value in zip(names, values, strict=True)}


def _json_value(value: Any) -> Any:
    if not isinstance(value, (float, np.floating)) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
