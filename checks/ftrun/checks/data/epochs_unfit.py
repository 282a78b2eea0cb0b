"""The run sees its rows far more often, or far less often, than the recipe means.

Symptom: the model says its rows by heart and nothing else; or a run of three epochs is over before the first one is.
Cause: `num_train_epochs` in place of `max_steps`, or of another data set; a `max_steps` that a trial left in the
recipe.
Fix: set `training.num_train_epochs` to 1 to 3; remove `training.max_steps` where epochs are meant.
Prevention: the guard `overfitting` watches held-out rows: give `data.eval`.
Source: preferences are learnt in 1 to 3 epochs (arXiv 2305.18290, 2310.16944), told are more than 10; answers in up to
15 (LIMA, arXiv 2305.11206), told are more than 50. Of both settings `max_steps` counts (transformers): told where the
recipe has both, and it ends the run before a quarter of the epochs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.schedule import is_trial
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

MANY = {"sft": 50, "reward": 10, "dpo": 10}
QUARTER = 0.25


@check("TRAIN047", title="rows are seen as often as is meant", severity="warning", methods=tuple(MANY))
def epochs_unfit(at: AtData) -> Iterator[Finding]:
    training, rows = at.recipe.training, len(at.train_dataset)
    epochs, most = float(training["num_train_epochs"]), MANY[at.recipe.method]
    taken = int(training["per_device_train_batch_size"]) * int(training["gradient_accumulation_steps"])
    epoch = math.ceil(rows / (taken * at.process_count))
    if training["max_steps"] <= 0:
        if epochs > most:
            yield Finding(
                message=f"Each of the {rows} rows is seen {epochs:g} times: what is learnt is these rows, by heart.",
                fix="Set training.num_train_epochs to 1 to 3, and hold rows out under data.eval.",
                where=at.where("training.num_train_epochs"),
            )
        return
    written = at.file.recipe.training
    both = "max_steps" in written and "num_train_epochs" in written
    if both and not is_trial(at) and at.steps < QUARTER * epochs * epoch:
        yield Finding(
            message=f"training.max_steps ends the run after {at.steps} steps, {at.steps / epoch:.2g} epochs; "
            f"num_train_epochs: {epochs:g} has no effect beside it.",
            fix="Remove training.max_steps, or num_train_epochs where the limit is meant.",
            where=at.where("training.max_steps"),
        )


@epochs_unfit.fault
def a_hundred_epochs(world: World) -> None:
    world.recipe["training"]["num_train_epochs"] = 100


@epochs_unfit.fault
def the_limit_of_a_trial(world: World) -> None:
    world.recipe["training"] |= {"num_train_epochs": 50, "max_steps": 12}
