"""The reference of DPO: the frozen model that the policy is held to, wherever the trainer keeps it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ftrun.checks.engine import NotApplicable
from ftrun.checks.rows import IGNORED

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, Trainer

Batch = Mapping[str, "torch.Tensor"]
"""What TRL's collator makes of pairs: the chosen sides, and after them the rejected ones."""


@contextmanager
def reference_of(trainer: Trainer) -> Iterator[PreTrainedModel | None]:
    """The model that answers for the reference: one of its own, or the policy with its adapters off.

    None where none is kept: every weight is trained, and the log-probabilities are computed beforehand.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    if trainer.ref_model is not None:
        yield trainer.ref_model
    elif hasattr(model, "disable_adapter"):
        trained = [(p, p.requires_grad) for p in model.parameters()]
        try:
            with model.disable_adapter():
                yield model
        finally:
            for p, was_trained in trained:  # turning adapters on again makes them trainable, frozen or not
                p.requires_grad_(was_trained)
    else:
        yield None


def own_reference(trainer: Trainer) -> PreTrainedModel:
    """The reference where it is a model of its own; NotApplicable where it is the policy's base or not kept."""
    if trainer.ref_model is None:
        raise NotApplicable("the reference is no model of its own")
    return trainer.ref_model


@contextmanager
def without_dropout(model: torch.nn.Module) -> Iterator[None]:
    """The model in evaluation mode, each of its modules put back afterwards into the mode that it was in."""
    with _mode(model, training=False):
        yield


@contextmanager
def training_mode(model: torch.nn.Module) -> Iterator[None]:
    """The model in training mode, each of its modules put back afterwards into the mode that it was in."""
    with _mode(model, training=True):
        yield


@contextmanager
def _mode(model: torch.nn.Module, *, training: bool) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training


def collate(trainer: Trainer, dataset: Any, start: int, count: int) -> Batch:
    """Rows of a data set as a batch on the trainer's device. No random number is drawn, as a loader would."""
    rows = [dataset[i] for i in range(start, min(start + count, len(dataset)))]
    return {name: value.to(trainer.args.device) for name, value in trainer.data_collator(rows).items()}


def log_probs(trainer: Trainer, model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """The sum of the log-probabilities of each answer's tokens: shape (2 · pairs,), the chosen ones first.

    By the forward pass that DPOTrainer computes its loss with, and in the model's present mode.
    """
    import torch

    ids, answers = batch["input_ids"], batch["completion_mask"]
    with torch.no_grad(), trainer.accelerator.autocast():
        output: Any = model(
            input_ids=ids,
            attention_mask=batch["attention_mask"],
            labels=ids.masked_fill(answers == 0, IGNORED),
            use_cache=False,
            fused_lm_head=True,
        )
    sums: torch.Tensor = output.log_probs.float().sum(1)
    return sums
