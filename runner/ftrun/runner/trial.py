"""What the experiments share: how the trainer is asked, and how they say that they cannot be made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    from transformers import Trainer

Batch = Mapping[str, Any]

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
