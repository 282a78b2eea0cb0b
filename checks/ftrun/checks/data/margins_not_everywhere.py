"""Only some pairs say by how much they differ, or some say it with the wrong sign.

Symptom: margins of the file change nothing: training is as without them; or the model is content while the rejected
answers are ahead; or the loss begins in the tens and scores run away.
Cause: the loss takes a margin for every pair of a batch or for none, and some rows have none; or a margin is the
rejected answer's score less the chosen one's; or margins are points of a hundred.
Fix: fill the column `margin` in every row (0 for no margin) with how much better the chosen answer is, or remove it.
Prevention: write the column in one place for all sources.
Source: the loss asks for scores that differ by the margin: differences of 1 to 3 are usual (arXiv 2307.09288). Told are
margins of which half are above 10 (warning), or above 50 (error). TRL's collator for pairs looks at the first of a
batch alone, and fails where another has no margin.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.examples import margins_of
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ftrun.checks.testing import World


LARGE, HUGE = 10.0, 50.0


@check(
    "RM004",
    title="every pair has a margin, or none has, and none is negative",
    severity="warning",
    methods=("reward",),
)
def margins_not_everywhere(at: AtData) -> Iterator[Finding]:
    import numpy as np

    for rows in (at.train, at.eval):
        if rows is None:
            continue
        margins = margins_of(rows)
        yield from _judge_size(at, margins)
        for wrong, what, fix in (
            (
                np.isnan(margins),
                "have no margin, so those of the others are not used.",
                "Give every row a number in the column margin, or remove the column.",
            ),
            (
                margins < 0,
                "have a margin below 0: the loss is content with a rejected answer that scores higher.",
                "Give every pair the score of its chosen answer less that of its rejected one as margin; exchange "
                "the sides where that is negative.",
            ),
        ):
            found = np.flatnonzero(wrong)
            if len(found) and not (np.isnan(margins).all()):
                yield Finding(
                    message=f"{len(found)} of {len(margins)} pairs {what}",
                    fix=fix,
                    where=rows[2 * int(found[0])].where,
                    evidence=tuple(str(rows[2 * one].where) for one in found[1:4].tolist()),
                )


def _judge_size(at: AtData, margins: NDArray[np.float64]) -> Iterator[Finding]:
    import numpy as np

    known = margins[~np.isnan(margins)]
    if len(known) and (half := float(np.median(known))) > LARGE:
        yield Finding(
            message=f"Half of the {len(known)} margins are above {half:g}: scores have to differ by that much before "
            "the loss is content with a pair.",
            fix="Divide the column margin so that margins are 0 to 3.",
            where=at.where("data.train"),
            severity="error" if half > HUGE else "warning",
        )


@margins_not_everywhere.fault
def margins_are_points_of_a_hundred(world: World) -> None:
    from ftrun.checks.testing import reward_full

    healthy = reward_full(world.folder)
    world.recipe, world.rows = healthy.recipe, [{**row, "margin": 90.0} for row in healthy.rows]


@margins_not_everywhere.fault
def a_row_lost_its_margin(world: World) -> None:
    for row in world.rows[1:]:
        row["margin"] = 0.5


@margins_not_everywhere.fault
def margins_are_turned(world: World) -> None:
    for row in world.rows:
        row["margin"] = -0.5
