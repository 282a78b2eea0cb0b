"""The trainer reads other rows than those that were prepared and checked.

Symptom: the run is shorter than planned, or learns nothing of a part of the data.
Cause: something took rows away, replaced them or divided them again after they were prepared: a filter, a limit of a
trial that was left in.
Fix: choose rows in the recipe (`data:`), where they are counted.
Prevention: compare the rows of a run with those that `ftrun preflight` shows.
Source: the number of rows of the trainer's data sets, and those of the data stage.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("DATA049", title="the trainer reads the rows that were prepared", methods=("sft", "reward", "dpo"))
def trainer_fed_otherwise(at: AtModel) -> Iterator[Finding]:
    splits: tuple[tuple[str, Any, Any], ...] = (
        ("train", at.train_dataset, at.trainer.train_dataset),
        ("eval", at.eval_dataset, at.trainer.eval_dataset),
    )
    for split, prepared, fed in splits:
        wanted, given = (0 if one is None else len(one) for one in (prepared, fed))
        if wanted != given:
            yield Finding(
                message=f"{wanted} rows were prepared for {split}, and the trainer reads {given}.",
                fix="Choose rows under `data:`, and leave the trainer's data sets as they are.",
                where=at.where(f"data.{split}"),
            )


@trainer_fed_otherwise.fault
def a_trials_limit_is_left_in(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        at.trainer.train_dataset = at.trainer.train_dataset.select(range(16))
        return at

    world.after(AtModel, damage)
