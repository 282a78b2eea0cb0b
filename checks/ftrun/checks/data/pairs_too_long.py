"""Pairs are left out because one of their answers is too long.

Symptom: fewer steps than the file has pairs; long answers are scored badly, since none was seen.
Cause: a reward is read at the end of an answer, so nothing is cut: where a side has more tokens than
`training.max_length`, the pair is left out, as TRL leaves it out.
Fix: raise `training.max_length`.
Source: shares of 1 % (warning) and 10 % (error), as of other rows that are lost: trl#4632.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding, Severity
from ftrun.checks.limits import longest_input
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

MANY, SOME = 0.10, 0.01


@check("DATA044", title="max_length leaves no pair out", methods=("reward",))
def pairs_too_long(at: AtData) -> Iterator[Finding]:
    max_length = at.recipe.training["max_length"]
    if max_length is None:
        raise NotApplicable("training.max_length is null: no pair is left out")
    for split, rows in (("train", at.train), ("eval", at.eval)):
        counts = [count for count in at.counts if count.split == split]
        lost = sum(count.too_long for count in counts)
        if rows is None or not lost:
            continue
        total = lost + sum(count.kept for count in counts)
        yield Finding(
            message=f"{lost} of {total} pairs ({lost / total:.1%}) of data.{split} are left out: a side has more than "
            f"training.max_length {max_length} tokens.{'' if len(rows) else ' No pair is left.'}",
            fix=_fix(at),
            where=at.where("training.max_length"),
            evidence=tuple(str(rows.where(*origin)) for origin in rows.too_long[::2][:3].tolist()),
            severity="error" if not len(rows) else _grade(lost / total, split),
        )


def _fix(at: AtData) -> str:
    limit = longest_input(at.model_config)
    if limit is None:
        return "Raise training.max_length, or shorten the prompts."
    if limit <= at.recipe.training["max_length"]:
        return f"Shorten these pairs, or take a model for longer texts: this one takes {limit} tokens."
    return f"Raise training.max_length (the model takes {limit}), or shorten the prompts."


def _grade(share: float, split: str) -> Severity:
    if share <= SOME:
        return "info"
    return "error" if share > MANY and split == "train" else "warning"


@pairs_too_long.fault
def max_length_is_that_of_another_task(world: World) -> None:
    world.recipe["training"]["max_length"] = 28


@pairs_too_long.fault
def some_answers_go_on_and_on(world: World) -> None:
    for row in world.rows[:2]:
        row["rejected"] *= 40
