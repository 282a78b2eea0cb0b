"""The chosen and the rejected answers seem to be exchanged.

Symptom: accuracy and margins look well, and the model learns to give the worse answers.
Cause: `columns:` maps the better answers to `rejected`, or the file's own scores say that they are.
Fix: exchange the two under `columns:`.
Prevention: read a pair with `ftrun preview`.
Source: told are columns whose own names say the opposite of what they are mapped to, and scores of both sides in the
first 20 rows (score_chosen and score_rejected, as in UltraFeedback, or names like them) of which 9 in 10 are higher
for the rejected one. Files of lines of JSON and CSV are looked into.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.columns import SYNONYMS, read_first_rows
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.rows import SourceHead
from ftrun.checks.stages import AtRecipe

if TYPE_CHECKING:
    from ftrun.checks.testing import World

SCORES = ("{}_score", "score_{}", "{}_rating", "rating_{}", "{}-rating", "{}_reward", "{}-score")
NEARLY_ALL = 0.9
ENOUGH = 5
"""Rows below which nothing is concluded from scores."""


@check("DATA045", title="chosen answers are the better ones", methods=("reward", "dpo"))
def sides_swapped(at: AtRecipe) -> Iterator[Finding]:
    """Tell sides that names or scores of the file call by the other's name."""
    for head in at.heads:
        columns: Mapping[str, str] = at.source(head.key).columns
        chosen, rejected = columns.get("chosen", "chosen"), columns.get("rejected", "rejected")
        exchanged = Patch(f"{head.key}.columns", {**columns, "chosen": rejected, "rejected": chosen})
        named = _means(chosen, "rejected") and _means(rejected, "chosen")
        if named:
            message = (
                f"{head.label}: the column {chosen} is chosen and {rejected} is rejected; "
                "their names say the opposite."
            )
        else:
            message = _read_scores(head, chosen, rejected)
        if message:
            fix = f"Write `columns: {{chosen: {rejected}, rejected: {chosen}}}`, or correct the file."
            yield Finding(message, fix, at.where(f"{head.key}.columns"), patch=exchanged if named else None)


def _means(name: str, side: str) -> bool:
    return name.lower() in (side, *SYNONYMS[side])


def _read_scores(head: SourceHead, chosen: str, rejected: str) -> str:
    """What the scores of the first rows say against the sides; nothing where they say nothing."""
    present = head.columns or ()
    for pattern in SCORES:
        names = pattern.format(chosen), pattern.format(rejected)
        if not all(name in present for name in names):
            continue
        rows = read_first_rows(Path(head.looked_for))
        pairs = [pair for row in rows if (pair := _numbers(row, names)) is not None and pair[0] != pair[1]]
        worse = sum(one < other for one, other in pairs)
        if len(pairs) >= ENOUGH and worse >= NEARLY_ALL * len(pairs):
            return (
                f"{head.label}: {names[0]} is below {names[1]} in {worse} of the first {len(pairs)} rows, "
                "so that the rejected answers are the better ones."
            )
    return ""


def _numbers(row: Mapping[str, Any], names: tuple[str, str]) -> tuple[float, float] | None:
    try:
        return float(row[names[0]]), float(row[names[1]])
    except (KeyError, TypeError, ValueError):  # a row without scores says nothing
        return None


@sides_swapped.fault
def columns_are_mapped_crosswise(world: World) -> None:
    """`better` is mapped to rejected."""
    _make_pairs(world)
    world.rows = [
        {"prompt": row["prompt"], "better": row["chosen"], "worse": row["rejected"]} for row in world.rows
    ]
    world.recipe["data"]["train"][0]["columns"] = {"chosen": "worse", "rejected": "better"}


@sides_swapped.fault
def scores_say_the_opposite(world: World) -> None:
    """The file was written with its sides exchanged, and its scores were not."""
    _make_pairs(world)
    for number, row in enumerate(world.rows):
        row |= {"score_chosen": 2.0 + number % 3, "score_rejected": 8.0}


def _make_pairs(world: World) -> None:
    from ftrun.checks.testing import reward_full

    world.rows = reward_full(world.folder).rows
