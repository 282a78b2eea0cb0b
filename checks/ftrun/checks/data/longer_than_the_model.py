"""Rows are longer than the model has positions for.

Symptom: an index error, or a loss that rises with the length of the row.
Cause: training.max_length is null or over the length that the model was made for.
Fix: set training.max_length to what the model takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.limits import longest_input
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("DATA018", title="no row is longer than the model takes", methods=("sft", "reward", "dpo"))
def longer_than_the_model(at: AtData) -> Iterator[Finding]:
    import numpy as np

    limit, max_length = longest_input(at.model_config), at.recipe.training["max_length"]
    if limit is None:
        raise NotApplicable("the model's configuration states no longest input")
    for rows in (at.train, at.eval):
        if rows is None or not len(rows):
            continue
        # Packing may leave longer rows whole here and divide them at max_length.
        fed = rows.lengths if max_length is None else np.minimum(rows.lengths, max_length)
        longer = int((fed > limit).sum())
        if longer:
            longest = int(np.argmax(fed))
            yield Finding(
                message=f"{longer} of {len(rows)} rows are longer than the {limit} tokens that "
                f"{at.recipe.model.path} has positions for; the longest has {int(fed[longest])}.",
                fix=f"Set training.max_length to {limit}, or shorten the rows.",
                where=at.where("training.max_length"),
                evidence=(str(rows[longest].where),),
                patch=Patch("training.max_length", limit),
            )


@longer_than_the_model.fault
def rows_are_never_cut(world: World) -> None:
    world.recipe["training"]["max_length"] = None
    world.rows[4]["completion"] *= 400
