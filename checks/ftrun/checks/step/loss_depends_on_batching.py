"""The loss of a row depends on the rows beside it.

Symptom: results change with the batch size, and with the order of the rows; evaluation disagrees with use.
Cause: padding reaches the loss or the attention, or the loss is averaged over rows or over the padded length instead
of over trained tokens.
Fix: let the collator pad with an attention mask and labels of -100; use the loss of the trainer.
Source: principle: the loss of a batch is that of its halves, each padded no further than it needs, weighed by their
trained tokens. Measured: 1e-7 in float32; 1e-4 (2e-2 in half precision) is told. transformers#34191, trl#2708.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtModel, AtStep
from ftrun.checks.trials import differ, made

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("TRAIN032", title="the loss does not depend on padding and batching", methods=("sft",))
def loss_depends_on_batching(at: AtStep) -> Iterator[Finding]:
    whole, halves = made(at, "divided")
    if differ(at, whole, halves):
        yield Finding(
            message=f"The first batch has a loss of {whole:.6g}; its two halves, weighed by their trained tokens, have "
            f"{halves:.6g}. The loss depends on padding, or on which rows stand together.",
            fix="Use the trainer's own loss and data collator, and a model that heeds the attention mask.",
            where=at.where("training.per_device_train_batch_size"),
        )


@loss_depends_on_batching.fault
def loss_is_averaged_over_the_padded_length(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        compute = at.trainer.compute_loss

        def average(model: Any, inputs: Any, num_items_in_batch: Any = None, **kwargs: Any) -> Any:
            return compute(model, inputs, num_items_in_batch=inputs["labels"].numel(), **kwargs)

        at.trainer.compute_loss = average
        return at

    _lengthen(world)
    world.after(AtModel, damage)


@loss_depends_on_batching.fault
def rows_see_each_other(world: World) -> None:
    """What stands in the other rows of a batch is added to each of them, as batch norms do."""

    def damage(at: AtModel) -> AtModel:
        at.model.get_input_embeddings().register_forward_hook(
            lambda module, inputs, output: output + output.mean(dim=0, keepdim=True)
        )
        return at

    _lengthen(world)
    world.after(AtModel, damage)


def _lengthen(world: World) -> None:
    for number, row in enumerate(world.rows):
        row["completion"] *= 1 + number % 4
