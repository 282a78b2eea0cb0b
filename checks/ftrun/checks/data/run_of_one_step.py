"""The whole run is one optimizer step.

Symptom: the run is over at once, and the model is nearly what it was.
Cause: the batch, or the accumulation, is as large as the data; `dataloader_drop_last` drops the only batch; a part of
an epoch was asked for.
Fix: lower `training.per_device_train_batch_size` and `training.gradient_accumulation_steps`, or train for more epochs.
Prevention: look at the number of steps that `ftrun preflight` shows.
Source: principle: one step cannot train more than one step does. A run that `max_steps` limits is meant so.
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

BATCH = "training.per_device_train_batch_size"


@check(
    "TRAIN046", title="the run has more than one step", severity="warning", methods=("sft", "reward", "dpo")
)
def run_of_one_step(at: AtData) -> Iterator[Finding]:
    training, rows = at.recipe.training, len(at.train_dataset)
    if training["max_steps"] > 0:
        raise NotApplicable("training.max_steps says how long the run is")
    if at.steps > 1 or not rows:
        return
    batch = int(training["per_device_train_batch_size"]) * at.process_count
    accumulated = int(training["gradient_accumulation_steps"])
    epochs = float(training["num_train_epochs"])
    dropped = training["dataloader_drop_last"] and batch > rows
    if dropped:
        key, why = BATCH, f"a batch takes {batch} rows, there are {rows}, and dataloader_drop_last drops it"
    elif epochs < 1:
        key, why = "training.num_train_epochs", f"{epochs:g} epochs are a part of the {rows} rows"
    else:
        key = "training.gradient_accumulation_steps" if accumulated > 1 else BATCH
        why = f"a step takes {batch * accumulated} rows, and there are {rows}"
    yield Finding(
        message=f"The whole run is one optimizer step: {why}.",
        fix=f"Lower {BATCH} or gradient_accumulation_steps, or train for more epochs.",
        where=at.where(key),
        severity="error" if dropped else "warning",
    )


@run_of_one_step.fault
def the_batch_holds_all_rows(world: World) -> None:
    world.recipe["training"] |= {
        "per_device_train_batch_size": len(world.rows),
        "num_train_epochs": 1,
        "warmup_steps": 0,
    }


@run_of_one_step.fault
def the_only_batch_is_dropped(world: World) -> None:
    world.recipe["training"] |= {
        "per_device_train_batch_size": 2 * len(world.rows),
        "dataloader_drop_last": True,
        "num_train_epochs": 1,
    }
