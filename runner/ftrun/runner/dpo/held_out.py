"""What came of the preferences: the trained model and its start, asked about held-out pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ftrun.checks.reference import Batch, collate, log_probs, reference_of, without_dropout
from ftrun.checks.rows import Rows
from ftrun.checks.stages import AtModel
from ftrun.runner.answers import divide, generate

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, Trainer


@dataclass(frozen=True)
class Choice:
    """What was generated for the prompt of a pair, before and after training."""

    prompt: str
    chosen: str
    rejected: str
    before: str | None
    """None where nothing is left of the model before training."""

    given: str


def measure_margins(trainer: Trainer) -> NDArray[np.float64] | None:
    """For each held-out pair β (log π(y) − log π_ref(y)) of the chosen answer y minus that of the rejected one:
    shape (pairs,). It is DPO's own reward (arXiv 2305.18290, equation 5), on whole answers, whatever the loss.

    None where the reference is neither kept nor computed on whole answers (`ld_alpha`).
    """
    dataset: Any = trainer.eval_dataset
    size = trainer.args.per_device_eval_batch_size
    margins = []
    with without_dropout(trainer.model):
        for start in range(0, len(dataset), size):
            batch = collate(trainer, dataset, start, size)
            theirs = _reference_log_probs(trainer, batch)
            if theirs is None:
                return None
            rewards = trainer.args.beta * (log_probs(trainer, trainer.model, batch) - theirs)
            chosen, rejected = rewards.chunk(2)
            margins += (chosen - rejected).tolist()
    return np.array(margins)


def _reference_log_probs(trainer: Trainer, batch: Batch) -> torch.Tensor | None:
    import torch

    with reference_of(trainer) as reference:
        if reference is not None:
            return log_probs(trainer, reference, batch)
    if trainer.args.ld_alpha is not None:
        return None
    return torch.cat([batch["ref_chosen_logps"], batch["ref_rejected_logps"]])


def answer_pairs(at: AtModel, rows: Rows, count: int, max_new_tokens: int) -> list[Choice]:
    """Greedy answers to the prompts of the first `count` pairs of which nothing was cut."""
    pairs = ((rows[i], rows[i + 1]) for i in range(0, len(rows), 2))
    asked = [
        (*chosen, rejected[1])
        for one, other in pairs
        if not one.truncated and not other.truncated
        if (chosen := divide(one)) is not None and (rejected := divide(other)) is not None
    ][:count]

    def answer(model: PreTrainedModel) -> list[str]:
        prompts = [prompt for prompt, _, _ in asked]
        return generate(prompts, model, at.tokenizer, at.stop_ids, max_new_tokens=max_new_tokens)

    with _start_of(at) as start:
        before: Sequence[str | None] = [None] * len(asked) if start is None else answer(start)
    given = answer(at.model)
    texts = [[at.tokenizer.decode(part, skip_special_tokens=True) for part in parts] for parts in asked]
    return [
        Choice(prompt, chosen, rejected, earlier, later)
        for (prompt, chosen, rejected), earlier, later in zip(texts, before, given, strict=True)
    ]


@contextmanager
def _start_of(at: AtModel) -> Iterator[PreTrainedModel | None]:
    """The model before training, as far as it is still there: with LoRA under the adapters, else as reference."""
    recipe: Any = at.recipe
    if hasattr(at.model, "disable_adapter"):
        with at.model.disable_adapter():
            yield at.model
    else:
        is_start = recipe.model.reference is None and not at.trainer.args.sync_ref_model
        yield at.trainer.ref_model if is_start else None
