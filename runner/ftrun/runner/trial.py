"""What the experiments share: how the trainer is asked, and how they say that they cannot be made."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    import torch
    from transformers import Trainer

Batch = Mapping[str, Any]

Weights = Mapping[str, "torch.Tensor"]
"""Copies, in main memory, of the weights that a step may change, by the names of the model's parameters."""

SHORT = 64
"""Tokens of a row that are looked at where logits are compared: with 150,000 words 38 MB."""

PREDICTS = ("sft",)
"""Methods whose batches are rows with labels."""


class NotMade(Exception):
    """Raised by an experiment that cannot be made here; its text says why."""


def need_labels(at: AtModel) -> None:
    """Raises NotMade where the method's batches are no rows with labels."""
    if at.recipe.method not in PREDICTS:
        raise NotMade(f"not for method {at.recipe.method}")


def on_device(trainer: Trainer, batch: Batch) -> dict[str, Any]:
    """The batch where the model is. A new mapping: the trainer adds to what it is given."""
    device = trainer.args.device
    return {key: value.to(device) if hasattr(value, "to") else value for key, value in batch.items()}


def count_items(trainer: Trainer, batch: Batch) -> Any:
    """What `Trainer` divides the loss of this batch by, if it were the whole step; None where it does not count."""
    return trainer._get_num_items_in_batch([batch], trainer.args.device)


def forward(trainer: Trainer, batch: Batch, items: Any) -> torch.Tensor:
    """The loss, by the calls of `Trainer.training_step` that lead to it."""
    trainer.model.train()
    if callable(getattr(trainer.optimizer, "train", None)):  # schedule-free optimizers
        trainer.optimizer.train()
    # TRL divides the balancing loss of a mixture of experts by it; `Trainer` sets it before each step.
    trainer.current_gradient_accumulation_steps = 1
    offloading = getattr(trainer, "maybe_activation_offload_context", None) or nullcontext()
    # `accelerator.prepare` would put the autocast into the model for good.
    with offloading, trainer.compute_loss_context_manager(), trainer.accelerator.autocast():
        loss: torch.Tensor = trainer.compute_loss(
            trainer.model, on_device(trainer, batch), num_items_in_batch=items
        )
    return loss


def differentiate(trainer: Trainer, batch: Batch) -> torch.Tensor:
    """The loss of a batch that is a step of its own; its gradients are added to those of the parameters."""
    loss = forward(trainer, batch, count_items(trainer, batch))
    trainer.accelerator.backward(loss)
    return loss


def unscale(trainer: Trainer) -> None:
    """Take the scale of float16 off the gradients."""
    if trainer.accelerator.scaler is not None:
        trainer.accelerator.scaler.unscale_(trainer.optimizer)


def advance(trainer: Trainer) -> None:
    """Clip the gradients, and step at the peak learning rate."""
    import torch

    optimizer, scaler = trainer.optimizer, trainer.accelerator.scaler
    for group in optimizer.param_groups:  # a scheduler with warmup has already set the rate to 0
        group["lr"] = group.get("initial_lr", group["lr"])
    if trainer.args.max_grad_norm:
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), trainer.args.max_grad_norm)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)


def ask(trainer: Trainer, batch: Batch) -> tuple[float, dict[str, float]]:
    """The loss of a batch in evaluation, and what TRL's trainer collected on the way."""
    import torch

    trainer.model.eval()
    if callable(getattr(trainer.optimizer, "eval", None)):  # schedule-free optimizers
        trainer.optimizer.eval()
    with torch.no_grad(), trainer.accelerator.autocast():
        loss: torch.Tensor = trainer.compute_loss(
            trainer.model, on_device(trainer, batch), num_items_in_batch=count_items(trainer, batch)
        )
    return float(loss), collected(trainer, "eval")


def collected(trainer: Trainer, mode: str = "train") -> dict[str, float]:
    """What the last forward pass added to TRL's own metrics of training or evaluation."""
    metrics = getattr(trainer, "_metrics", {}).get(mode, {})
    return {name: float(values[-1]) for name, values in metrics.items() if values}
