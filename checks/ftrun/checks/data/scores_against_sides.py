"""The scores beside the pairs say that many rejected answers are the better ones.

Symptom: accuracy stays near a half, or rises to the share of pairs that are right.
Cause: the sides were taken by position, by one judge of several or by an older score; pairs were made from two answers
without comparing their scores.
Fix: make the pairs anew from the scores, and leave out those that are equal.
Prevention: make sides and scores in one place.
Source: told are scores of both sides (`score_chosen` and `score_rejected`, or names like them, or those of the columns
of answers: `score_a` beside `answer_a`) of which 10 % are lower for the chosen one, or 30 % equal. Where nine in ten
are lower, the sides are exchanged throughout, which DATA045 tells. The first 2,000 rows of files of JSON lines and CSV
are looked into.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.columns import read_first_rows, tell_apart
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

MANY, EQUAL = 0.10, 0.30
NEARLY_ALL = 0.9
ENOUGH = 20
ROWS = 2000
NAMES = ("score", "rating", "reward", "quality")


@check(
    "DATA071", title="scores of the file agree with its sides", severity="warning", methods=("reward", "dpo")
)
def scores_against_sides(at: AtData) -> Iterator[Finding]:
    judged = False
    for head in at.heads:
        mapping = at.source(head.key).columns
        sides = mapping.get("chosen", "chosen"), mapping.get("rejected", "rejected")
        if head.place != "file" or not (names := _find_scores(head.columns or (), sides)):
            continue
        rows = read_first_rows(Path(head.looked_for), ROWS)
        scores = [
            (place, better, worse)
            for place, row in enumerate(rows, 1)
            if (better := _number(row, names[0])) is not None
            and (worse := _number(row, names[1])) is not None
        ]
        if len(scores) < ENOUGH:
            continue
        judged = True
        turned = [place for place, better, worse in scores if better < worse]
        if len(turned) >= NEARLY_ALL * len(scores):
            continue
        equal = [place for place, better, worse in scores if better == worse]
        for found, share, what in (
            (turned, MANY, "is lower than"),
            (equal, EQUAL, "is no higher than"),
        ):
            if len(found) >= share * len(scores):
                yield Finding(
                    message=f"In {len(found)} of {len(scores)} pairs of {head.label} {names[0]} {what} {names[1]}.",
                    fix="Make the pairs anew from the scores, and leave out those that are equal.",
                    where=Where(file=head.label, row=found[0], key=head.key),
                )
    if not judged:
        raise NotApplicable("no file has scores of both sides")


def _find_scores(columns: Sequence[str], sides: tuple[str, str]) -> tuple[str, str] | None:
    """The columns with the scores of the chosen and of the rejected answer."""
    known = {name.lower(): name for name in columns}
    marks = tell_apart(*(side.lower() for side in sides))
    for names in (("chosen", "rejected"), marks):
        for word, form in product(NAMES, ("{1}_{0}", "{0}_{1}", "{1}{0}")):
            pair = [known.get(form.format(name, word)) for name in names]
            if pair[0] and pair[1] and pair[0] != pair[1]:
                return pair[0], pair[1]
    return None


def _number(row: Mapping[str, Any], name: str) -> float | None:
    try:
        return float(row[name])
    except (KeyError, TypeError, ValueError):  # a score may be missing
        return None


@scores_against_sides.fault
def sides_were_taken_by_position(world: World) -> None:
    for number, row in enumerate(world.rows):
        row |= {"score_chosen": 8.0 if number % 3 else 4.0, "score_rejected": 6.0}


@scores_against_sides.fault
def answers_of_two_models_with_their_scores(world: World) -> None:
    from ftrun.checks.testing import dpo_full

    world.recipe["method"] = "dpo"
    world.recipe["data"]["train"][0]["columns"] = {"chosen": "answer_0", "rejected": "answer_1"}
    world.rows = [
        {
            "prompt": row["prompt"],
            "answer_0": row["chosen"],
            "answer_1": row["rejected"],
            "score_0": float(number % 2),
            "score_1": 0.5,
        }
        for number, row in enumerate(dpo_full(world.folder).rows)
    ]
