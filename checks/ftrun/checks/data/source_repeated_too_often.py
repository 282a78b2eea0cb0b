"""A weight lets a few rows be seen dozens of times.

Symptom: the model recites these rows, and is worse elsewhere; the loss falls in steps.
Cause: a weight was meant in percent, or as a share: `weight: 60` repeats each row sixty times in every epoch.
Fix: write how often a row is seen in an epoch: 1 as the others are, 0.6 for six in ten of them.
Prevention: `ftrun plan` shows how many rows and tokens each source gives.
Source: up to four passes over the same text are as good as new text, and past forty further ones add nothing (arXiv
2305.16264). Told are weights of 10 and more that make it more than forty passes.
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

HEAVY = 10
PASSES = 40


@check("DATA076", title="no weight repeats rows dozens of times", severity="warning")
def source_repeated_too_often(at: AtData) -> Iterator[Finding]:
    training = at.recipe.training
    if training["max_steps"] > 0:
        raise NotApplicable("max_steps says how long the run is, not a number of epochs")
    for source in at.train.sources:
        weight = at.source(source.key).weight
        passes = weight * training["num_train_epochs"]
        if weight >= HEAVY and passes > PASSES:
            yield Finding(
                message=f"{source.label} has weight {weight:g}: its {len(source.examples) // source.sides} rows are "
                f"seen {passes:g} times in this run.",
                fix="Write as weight how often a row is seen in an epoch: 1 is once, 0.5 half of the rows.",
                where=at.where(f"{source.key}.weight"),
            )


@source_repeated_too_often.fault
def a_weight_is_meant_in_percent(world: World) -> None:
    world.recipe["data"]["train"][0]["weight"] = 60
