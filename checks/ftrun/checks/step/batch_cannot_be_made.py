"""The first batch cannot be made.

Symptom: training ends before its first step, with an error of the data loader or collator.
Cause: rows that do not fit together, no padding token, or fewer rows than a batch holds with
`dataloader_drop_last`.
Fix: what the error names; set `training.dataloader_num_workers: 0` to see an error of a worker whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.dry_step import tell_failure
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtModel, AtStep

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("TRAIN012", title="the data loader gives a batch")
def batch_cannot_be_made(at: AtStep) -> Iterator[Finding]:
    yield from tell_failure(
        at, "batch", "Correct what the message names: the rows, or the loader's settings under training:."
    )


@batch_cannot_be_made.fault
def collator_has_no_padding(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        at.trainer.data_collator.pad_token_id = None
        return at

    world.after(AtModel, damage)


@batch_cannot_be_made.fault
def fewer_rows_than_a_batch(world: World) -> None:
    world.recipe["training"] |= {"per_device_train_batch_size": 64, "dataloader_drop_last": True}
