"""The answers of one side of the pairs break off within a word.

Symptom: accuracy is 1 within a few steps, and answers grow no better: what was learnt is which one is whole.
Cause: one side was cut at a number of characters or tokens where it was made, the other was not.
Fix: make that side anew with a larger budget, or leave out what was cut.
Prevention: read three pairs with `ftrun preview`.
Source: a last word that is none elsewhere in the pairs, and that others begin with, is taken for a part of one. Told is
a tenth of the answers of one side, of five words and more, that end with such a word and no mark behind it, where the
last words of the other side are so a fifth as often. Of 299 judged pairs one answer of each side ends so.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import clip
from ftrun.checks.exchanges import FEW, Exchange, read_exchanges
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

SHARE, LESS = 0.1, 0.2
WORDS = 5
ENOUGH = 16
SIDES = ("chosen", "rejected")
WORD = re.compile(r"[^\W\d_]+")


@check(
    "DATA111",
    title="both sides of the pairs end where they end",
    severity="warning",
    methods=("reward", "dpo"),
)
def one_side_breaks_off(at: AtData) -> Iterator[Finding]:
    judged = False
    for source in (one for one in at.sources if one.sides == 2):
        sides = [read_exchanges(source, side) for side in (0, 1)]
        if len(sides[0]) < ENOUGH:
            continue
        judged = True
        parts = _find_parts_of_words(sides)
        for side in (0, 1):
            cut = [one for one in parts[side] if one.answered[-1].isalpha()]
            if (
                len(cut) > FEW
                and len(cut) >= SHARE * len(sides[side])
                and len(parts[1 - side]) <= LESS * len(cut)
            ):
                yield Finding(
                    message=f"{len(cut)} of {len(sides[side])} {SIDES[side]} answers of {source.label} that were "
                    f"looked at break off within a word, and {len(parts[1 - side])} of the {SIDES[1 - side]} ones: "
                    "this alone tells the sides.",
                    fix=f"Make the {SIDES[side]} answers anew with a larger budget, or remove those that were cut.",
                    where=Where(file=source.label, row=cut[0].row, key=source.key),
                    evidence=tuple(f"row {one.row}: {clip(one.answered[-60:])}" for one in cut[:3]),
                )
    if not judged:
        raise NotApplicable(f"no source has {ENOUGH} pairs")


def _find_parts_of_words(sides: Sequence[Sequence[Exchange]]) -> list[list[Exchange]]:
    """The answers of each side whose last word is none elsewhere, and that other words begin with."""
    spoken = [[WORD.findall(one.answered.casefold()) for one in side] for side in sides]
    known = {word for side in spoken for words in side for word in words[:-1]}
    ordered = sorted(known)

    def is_part(word: str) -> bool:
        place = bisect_right(ordered, word)
        return word not in known and place < len(ordered) and ordered[place].startswith(word)

    return [
        [one for one, words in zip(side, said, strict=True) if len(words) >= WORDS and is_part(words[-1])]
        for side, said in zip(sides, spoken, strict=True)
    ]


@one_side_breaks_off.fault
def rejected_answers_are_cut(world: World) -> None:
    from ftrun.checks.testing import dpo_full

    world.recipe["method"] = "dpo"
    world.rows = dpo_full(world.folder).rows
    for row in world.rows:
        row["rejected"] = f"Perhaps it is {row['chosen'].partition(' is ')[2]} I have seen this room before"
        row["chosen"] += " I have seen this room before I went out."
        row["rejected"] = row["rejected"][:-3]
