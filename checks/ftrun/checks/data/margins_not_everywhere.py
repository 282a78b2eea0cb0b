"""Only some pairs say by how much they differ, or some say it with the wrong sign.

Symptom: margins of the file change nothing: training is as without them; or the model is content while the rejected
answers are ahead.
Cause: the loss takes a margin for every pair of a batch or for none, and some rows have none; or a margin is the
rejected answer's score less the chosen one's.
Fix: fill the column `margin` in every row (0 for no margin) with how much better the chosen answer is, or remove it.
Prevention: write the column in one place for all sources.
Source: TRL's collator for pairs looks at the first of a batch alone, and fails where another has no margin.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check(
    "RM004",
    title="every pair has a margin, or none has, and none is negative",
    severity="warning",
    methods=("reward",),
)
def margins_not_everywhere(at: AtData) -> Iterator[Finding]:
    for rows in (at.train, at.eval):
        if rows is None:
            continue
        origins = rows.origins[::2].tolist()
        without = [
            (source, example)
            for source, example in origins
            if "margin" not in rows.sources[source].examples[example]
        ]
        if without and len(without) < len(origins):
            yield Finding(
                message=f"{len(without)} of {len(origins)} pairs have no margin, so those of the others are not "
                "used.",
                fix="Give every row a number in the column margin, or remove the column.",
                where=rows.where(*without[0]),
                evidence=tuple(str(rows.where(*one)) for one in without[1:4]),
            )
        negative = [
            (source, example)
            for source, example in origins
            if (rows.sources[source].examples[example].get("margin") or 0) < 0
        ]
        if negative:
            yield Finding(
                message=f"{len(negative)} of {len(origins)} pairs have a margin below 0: the loss is content with a "
                "rejected answer that scores higher.",
                fix="Give every pair the score of its chosen answer less that of its rejected one as margin; exchange "
                "the sides where that is negative.",
                where=rows.where(*negative[0]),
                evidence=tuple(str(rows.where(*one)) for one in negative[1:4]),
            )


@margins_not_everywhere.fault
def a_row_lost_its_margin(world: World) -> None:
    for row in world.rows[1:]:
        row["margin"] = 0.5


@margins_not_everywhere.fault
def margins_are_turned(world: World) -> None:
    for row in world.rows:
        row["margin"] = -0.5
