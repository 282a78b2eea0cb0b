"""An optimizer step takes more rows than there are.

Symptom: the run is over after one step an epoch, and hardly anything is learnt.
Cause: batch size and accumulation are those of another data set, or of many devices.
Fix: lower `training.gradient_accumulation_steps` or `training.per_device_train_batch_size`.
Prevention: look at the number of steps that `ftrun preflight` shows.
Source: told where a step takes twice as many rows as there are, and `max_steps` is not set: each row is then in every
step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

TIMES = 2
KEY = "training.gradient_accumulation_steps"


@check(
    "TRAIN042", title="a step takes a part of the rows", severity="warning", methods=("sft", "reward", "dpo")
)
def step_larger_than_the_data(at: AtData) -> Iterator[Finding]:
    training, rows = at.recipe.training, len(at.train_dataset)
    if training["max_steps"] > 0:
        raise NotApplicable("training.max_steps says how long the run is")
    # As written: ftrun may compute the rows of a batch a few at a time, and accumulate.
    if at.file.recipe.training.get("gradient_accumulation_steps", 1) == at.process_count == 1:
        raise NotApplicable("gradients are not accumulated, and a batch is at most all rows")
    accumulated = int(training["gradient_accumulation_steps"])
    taken = int(training["per_device_train_batch_size"]) * accumulated * at.process_count
    if rows and taken >= TIMES * rows:
        yield Finding(
            message=f"An optimizer step takes {taken} rows, and there are {rows}: the run is {at.steps} steps.",
            fix=f"Lower {KEY} to {max(1, accumulated * rows // (8 * taken))} or so.",
            where=at.where(KEY),
        )


@step_larger_than_the_data.fault
def an_accumulation_of_another_run(world: World) -> None:
    world.recipe["training"]["gradient_accumulation_steps"] = 512
