"""The loss of the first batch is not one that a model of this vocabulary has.

Symptom: training begins with a loss that is NaN, zero, or far above that of guessing.
Cause: weights that were not loaded or were damaged, a tokenizer of another model, an overflow in half precision,
labels that are all masked.
Fix: NaN: compute in bfloat16 or float32. Zero: look at the labels with `ftrun preview`. Too high: use the
tokenizer and weights that belong together. Near guessing: load trained weights.
Prevention: a loss above ln V, that of guessing evenly among V tokens, is worth a look in any run.
Source: ln V for a model that knows nothing (Karpathy, A Recipe for Training Neural Networks, 2019). Measured: a
small Llama with random weights 0.4 % above ln V, with its head scaled by 20 53 % above. ln V + 1 is a warning,
1.5 ln V + 1 an error; for weights that were loaded, and 64 trained tokens or more, 0.8 ln V is an info: a trained
model knows more of any text. That new adapters leave the base's own loss is MODEL027's to tell.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.dry_step import known, need_trained_tokens
from ftrun.checks.finding import Finding
from ftrun.checks.rows import IGNORED
from ftrun.checks.stages import AtModel, AtStep

if TYPE_CHECKING:
    from ftrun.checks.testing import World

MARGIN = 1.0
"""Nats above ln V that a short batch of unusual text may have."""

FAR = 1.5
NEAR = 0.8
"""Of ln V, what a trained model stays under."""

ENOUGH = 64
"""Trained tokens of the first batch from which the loss of trained weights says something."""


@check("TRAIN016", title="the loss at the start is plausible", methods=("sft",))
def loss_implausible_at_start(at: AtStep) -> Iterator[Finding]:
    loss = known(at.step.loss, at)
    words = at.model.config.get_text_config().vocab_size
    guessing = math.log(words)
    if not math.isfinite(loss):
        yield Finding(
            message=f"The loss of the first batch is {loss}.",
            fix="Compute in bfloat16 or float32 (training.bf16, model.dtype), and see that the weights are whole.",
            where=at.where("training.fp16" if at.trainer.args.fp16 else "model.dtype"),
        )
        return
    need_trained_tokens(at)
    if loss == 0:
        yield Finding(
            message="The loss of the first batch is exactly 0: no label of it is trained, or the labels leak.",
            fix="Look at the labels with `ftrun preview`, and at what the data collator makes of them.",
            where=at.where("data"),
        )
    elif at.recipe.training["loss_type"] == "nll" and loss > guessing + MARGIN:
        yield Finding(
            message=f"The loss of the first batch is {loss:.2f}; guessing evenly among {words:,} tokens gives "
            f"{guessing:.2f}. The model does worse than one that knows nothing.",
            fix="Use the tokenizer and the weights that belong together, and look at the rows with `ftrun preview`.",
            where=at.where("model.path"),
            severity="error" if loss > FAR * guessing + MARGIN else "warning",
        )
    elif _is_trained(at) and at.recipe.training["loss_type"] == "nll" and loss > NEAR * guessing:
        yield Finding(
            message=f"The loss of the first batch is {loss:.2f}, near the {guessing:.2f} of guessing evenly among "
            f"{words:,} tokens: the loaded weights know next to nothing of this text.",
            fix="Load trained weights with the tokenizer that they were trained with, and look at the rows with "
            "`ftrun preview`.",
            where=at.where("model.path"),
            severity="info",
        )


def _is_trained(at: AtStep) -> bool:
    """Whether the weights were loaded, and the first batch trains enough tokens to judge them."""
    labels = (at.step.batch or {}).get("labels")
    return at.recipe.model.path != "tiny" and labels is not None and int((labels != IGNORED).sum()) >= ENOUGH


@loss_implausible_at_start.fault
def head_is_scaled(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        at.model.get_output_embeddings().weight.data *= 20.0
        return at

    world.after(AtModel, damage)


@loss_implausible_at_start.fault
def a_weight_is_nan(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        at.model.get_output_embeddings().weight.data[0, 0] = float("nan")
        return at

    world.after(AtModel, damage)


@loss_implausible_at_start.fault
def collator_masks_every_label(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        from ftrun.checks.rows import IGNORED

        collate = at.trainer.data_collator

        def mask(rows: object) -> object:
            batch = collate(rows)
            batch["labels"].fill_(IGNORED)
            return batch

        at.trainer.data_collator = mask
        return at

    world.after(AtModel, damage)


@loss_implausible_at_start.fault
def weights_were_never_trained(world: World) -> None:
    """A folder like any other, with the random weights of the tiny model in it."""

    def rename(at: AtStep) -> AtStep:
        model = at.recipe.model.model_copy(update={"path": "./never-trained"})
        return replace(at, recipe=at.recipe.model_copy(update={"model": model}))

    world.recipe["training"]["per_device_train_batch_size"] = 16
    world.after(AtStep, rename)
