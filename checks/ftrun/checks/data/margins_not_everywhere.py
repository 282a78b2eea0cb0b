"""Only some pairs say by how much they differ.

Symptom: margins of the file change nothing: training is as without them.
Cause: the loss takes a margin for every pair of a batch or for none, and some rows have none.
Fix: fill the column `margin` in every row (0 for no margin), or remove it.
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


@check("RM004", title="every pair has a margin, or none has", severity="warning", methods=("reward",))
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


@margins_not_everywhere.fault
def a_row_lost_its_margin(world: World) -> None:
    for row in world.rows[1:]:
        row["margin"] = 0.5
