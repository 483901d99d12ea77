"""torch.optim.Optimizer subclasses, one for each rule: `fastupdate.torch.AdamW(model.parameters(), lr=1e-3)`.

Importing this module imports torch, which fastupdate itself never does. See docs/torch.md.
"""

from fastupdate.torch.backward import in_backward as in_backward
from fastupdate.torch.classes import CLASSES
from fastupdate.torch.optimizer import Optimizer as Optimizer
from fastupdate.torch.partition import Partition as Partition
from fastupdate.torch.pieces import Pieces as Pieces

globals().update(CLASSES)

__all__ = ["Optimizer", "Partition", "Pieces", "in_backward", *CLASSES]  # noqa: PLE0604
