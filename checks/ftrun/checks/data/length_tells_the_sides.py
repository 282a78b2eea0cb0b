"""The length of an answer alone tells which one is chosen.

Symptom: accuracy is high at once, answers grow longer (or shorter) in training, and they grow no better.
Cause: the better answers come from another source than the worse ones, such as a larger model or people.
Fix: add pairs in which the shorter answer is the better one, or leave out the pairs that differ most in length.
Prevention: draw both answers of a pair from the same source.
Source: in data judged by people the longer answer is the chosen one in 55 % to 64 % of the pairs, and what is
trained on it already learns length first (arXiv 2310.03716). From 90 % on, a rule that counts tokens is as good as
most reward models. Up to two tokens more are as long: a word that is exchanged. Where answers are to be short or
long, that is no fault.
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

SHARE = 0.90
ALIKE = 2
"""Tokens by which answers differ that are as long as each other."""

ENOUGH = 30
"""Pairs below which a share says little."""


@check(
    "DATA042",
    title="length does not tell which answer is chosen",
    severity="warning",
    methods=("reward", "dpo"),
)
def length_tells_the_sides(at: AtData) -> Iterator[Finding]:
    import numpy as np

    # Both sides share their prompt, so that rows differ in length as answers do.
    lengths = at.train.full_lengths.reshape(-1, 2)
    if len(lengths) < ENOUGH:
        raise NotApplicable(f"there are fewer than {ENOUGH} pairs")
    more = lengths[:, 0] - lengths[:, 1]
    longer = (np.sign(more) * (np.abs(more) > ALIKE) + 1) / 2
    share = float(longer.mean())  # the area under the ROC curve of "the longer one is chosen", ties half
    if max(share, 1 - share) < SHARE:
        return
    kind, other = ("longer", "shorter") if share >= SHARE else ("shorter", "longer")
    medians = np.median(lengths, axis=0)
    yield Finding(
        message=f"The chosen answer is the {kind} one in {max(share, 1 - share):.0%} of {len(lengths)} pairs: whole "
        f"rows have {medians[0]:.0f} tokens at the median where it is chosen and {medians[1]:.0f} where it is "
        "rejected. Counting tokens is enough to tell the sides.",
        fix=f"Add pairs whose chosen answer is the {other} one, or remove those that differ most in length.",
        where=at.where("data.train"),
    )


@length_tells_the_sides.fault
def better_answers_go_on(world: World) -> None:
    for row in world.rows:
        row["chosen"] += " I have looked at it myself, and I am sure of it."


@length_tells_the_sides.fault
def better_answers_are_short(world: World) -> None:
    for row in world.rows:
        row["rejected"] += " I have looked at it myself, and I am sure of it."
