"""What becomes of the run is decided on a handful of held-out rows.

Symptom: training ends early, or the checkpoint that is kept is no better than the others: another few rows would have
chosen another one.
Cause: a fraction or a file for evaluation that has hardly any row, while `load_best_model_at_end`, `save_strategy:
best` or the guard against overfitting decides by it.
Fix: hold out more rows, or let nothing depend on them.
Prevention: some hundred rows tell losses apart that differ by a few percent.
Source: told are fewer than five rows: the mean of four varies half as much as single rows do.
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

FEW = 5


@check("DATA116", title="what decides is evaluated on enough rows", severity="warning")
def choice_rests_on_few_rows(at: AtData) -> Iterator[Finding]:
    if at.eval is None or not len(at.eval):
        raise NotApplicable("the recipe holds no rows out")
    training = at.recipe.training
    deciding = [
        key
        for key, decides in (
            ("training.load_best_model_at_end", training["load_best_model_at_end"]),
            ("training.save_strategy", training["save_strategy"] == "best"),
            ("guards.overfitting", at.recipe.guards.overfitting.action == "end"),
        )
        if decides
    ]
    if not deciding:
        raise NotApplicable("nothing is decided by an evaluation")
    rows = len(at.eval) // at.eval.sides
    if rows < FEW:
        yield Finding(
            message=f"{rows} held-out row{'' if rows == 1 else 's'} decide{'s' if rows == 1 else ''} by "
            f"{deciding[0]}: chance does.",
            fix="Hold out more rows with data.eval, or remove what decides by them.",
            where=at.where(deciding[0]),
        )


@choice_rests_on_few_rows.fault
def two_rows_choose_the_checkpoint(world: World) -> None:
    world.recipe["data"]["eval"] = {"fraction": 0.06}
    world.recipe["training"] |= {"eval_strategy": "epoch", "load_best_model_at_end": True}
