"""fastupdate.torch.AdamW in trainers: the loss curve of torch's own, and runs that are saved and resumed.

A small network learns scikit-learn's digits, which come with the package, for two epochs in order.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from cases import assert_same_bits
from peers import peer
from torch_cases import torch

import fastupdate as fu

pytestmark = [
    pytest.mark.peer,
    pytest.mark.filterwarnings("ignore::Warning"),  # the trainers' own
]

EPOCHS, STEPS, BATCH = 2, 12, 64
HYPERS = {"lr": 2e-2, "weight_decay": 0.1}
ULP = 2.0**-23
APART = 64 * ULP  # of losses, relative: a weight drifts by a few ulp a step, and a loss sums many of them


class Run(NamedTuple):
    """What came of a training: the loss of each step that was taken, and the weights."""

    losses: list[float]
    weights: list[np.ndarray]


@pytest.fixture(autouse=True)
def _torch_there() -> None:
    peer("torch")


def digits() -> Any:
    """Images and classes, of as many steps as an epoch has."""
    from sklearn.datasets import load_digits

    images, classes = load_digits(return_X_y=True)
    count = STEPS // EPOCHS * BATCH
    return torch.tensor(images[:count] / 16, dtype=torch.float32), torch.tensor(classes[:count])


def network() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))


def loss_of(model: Any, images: Any, classes: Any) -> Any:
    return torch.nn.functional.cross_entropy(model(images), classes)


def weights_of(model: Any) -> list[np.ndarray]:
    return [p.detach().numpy().copy() for p in model.parameters()]


def loader() -> Any:
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*digits()), batch_size=BATCH)


# Each takes the class of the optimizer, a folder, after how many steps to save (None: never) and whether to go on from
# what was saved there.


def plain_loop(optimizer_class: Any, folder: Path, save: int | None, resume: bool) -> Run:
    model, losses, first = network(), [], 0
    optimizer = optimizer_class(model.parameters(), **HYPERS)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=STEPS)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    if resume:
        for name, state in torch.load(folder / "run.pt", weights_only=True).items():
            parts[name].load_state_dict(state)
        first = scheduler.last_epoch
    for k, batch in enumerate(batch for _ in range(EPOCHS) for batch in loader()):
        if k < first or (save is not None and k >= save):
            continue
        optimizer.zero_grad()
        loss = loss_of(model, *batch)
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    if save is not None:
        torch.save({name: part.state_dict() for name, part in parts.items()}, folder / "run.pt")
    return Run(losses, weights_of(model))


def lightning(optimizer_class: Any, folder: Path, save: int | None, resume: bool) -> Run:
    pl = peer("lightning")

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.losses = network(), []

        def training_step(self, batch: Any, _: int) -> Any:
            loss = loss_of(self.model, *batch)
            self.losses.append(loss.item())
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = optimizer_class(self.parameters(), **HYPERS)
            scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=STEPS)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    module = Module()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=(STEPS if save is None else save) * EPOCHS // STEPS,  # amid an epoch it would not find its place
        enable_checkpointing=False,
        default_root_dir=folder,
        **quiet,
    )
    trainer.fit(module, loader(), ckpt_path=folder / "run.ckpt" if resume else None)
    if save is not None:
        trainer.save_checkpoint(folder / "run.ckpt")
    return Run(module.losses, weights_of(module))


def hugging_face(optimizer_class: Any, folder: Path, save: int | None, resume: bool) -> Run:
    transformers = peer("transformers")
    peer("accelerate")

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.losses = network(), []

        def forward(self, images: Any, labels: Any) -> Any:
            loss = loss_of(self.model, images, labels)
            self.losses.append(loss.item())
            return {"loss": loss}

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    model = Model()
    images, classes = digits()
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS if save is None else save,
        per_device_train_batch_size=BATCH,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        weight_decay=HYPERS["weight_decay"],
        learning_rate=HYPERS["lr"],
        save_strategy="no" if save is None else "steps",
        save_steps=save or STEPS,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
    )
    trainer = InOrder(
        model,
        arguments,
        train_dataset=[{"images": x, "labels": y} for x, y in zip(images, classes, strict=True)],
        optimizer_cls_and_kwargs=(optimizer_class, {"lr": HYPERS["lr"]}),
    )
    trainer.train(resume_from_checkpoint=True if resume else None)
    return Run(model.losses, weights_of(model))


def accelerate(optimizer_class: Any, folder: Path, save: int | None, resume: bool) -> Run:
    accelerator = peer("accelerate").Accelerator(cpu=True)
    model, losses = network(), []
    optimizer = optimizer_class(model.parameters(), **HYPERS)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=STEPS)
    model, optimizer, batches, scheduler = accelerator.prepare(model, optimizer, loader(), scheduler)
    first = 0
    if resume:
        accelerator.load_state(folder / "run")
        first = scheduler.scheduler.last_epoch
    for k, batch in enumerate(batch for _ in range(EPOCHS) for batch in batches):
        if k < first or (save is not None and k >= save):
            continue
        loss = loss_of(model, *batch)
        accelerator.backward(loss)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    if save is not None:
        accelerator.save_state(folder / "run")
    accelerator.free_memory()
    return Run(losses, weights_of(model))


TRAINERS: dict[str, Callable[..., Run]] = {
    "plain loop": plain_loop,
    "Lightning": lightning,
    "Hugging Face Trainer": hugging_face,
    "accelerate": accelerate,
}
by_trainer = pytest.mark.parametrize("trainer", TRAINERS.values(), ids=TRAINERS)


@by_trainer
def test_the_loss_curve_is_torchs(trainer: Any, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours, theirs = (trainer(cls, tmp_path, None, False) for cls in (fu.torch.AdamW, torch.optim.AdamW))
    assert len(ours.losses) == STEPS
    assert ours.losses[-1] < 0.8 * ours.losses[0]
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=APART)


@by_trainer
def test_a_resumed_run_has_the_bits_of_one_unbroken(trainer: Any, tmp_path: Path) -> None:
    half = STEPS // EPOCHS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = trainer(fu.torch.AdamW, tmp_path, None, False)
        first = trainer(fu.torch.AdamW, tmp_path, half, False)
        second = trainer(fu.torch.AdamW, tmp_path, None, True)
    assert first.losses + second.losses == whole.losses
    assert_same_bits(second.weights, whole.weights, "weights")
