"""What is handed in: a model where one is asked for, and else its parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from fastupdate.arrays.place import Place


def check_params(place: Place, params: Any) -> None:
    """TypeError for a model in place of its parameters, and for what holds none; what is in it, torch looks at."""
    model = isinstance(params, torch.nn.Module) and not isinstance(params, torch.nn.ParameterList)
    if model or not isinstance(params, Iterable):
        place.fail(TypeError, "model.parameters() or another sequence of tensors", type(params).__name__)


def check_model(place: Place, model: Any) -> None:
    """TypeError for parameters in place of the model that has them."""
    if not isinstance(model, torch.nn.Module):
        place.fail(TypeError, "a model, a torch.nn.Module", type(model).__name__)
