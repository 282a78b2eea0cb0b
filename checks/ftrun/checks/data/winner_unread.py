"""A column names the better answer of each pair, and the sides are taken by place.

Symptom: the loss stays near ln 2 (0.6931), and accuracy near a half, although the answers differ plainly.
Cause: the file has the answers of two models side by side, and which one won in a column of its own, which nothing
reads: `columns: {chosen: response_a, rejected: response_b}` takes the first for the better one in every row.
Fix: write a file whose column `chosen` is the answer that won, and leave out ties.
Prevention: read three pairs with `ftrun preview`.
Source: told are columns called winner, preferred, better or the like whose values name the two columns of answers, by
the name or by what tells it from the other (`a` of `response_a`), in nine rows of ten, ties included; and the rejected
one in 5 % of those that name one. The first 2,000 rows of files of JSON lines and CSV are looked into.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
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

SHARE = 0.05
NEARLY_ALL = 0.9
ENOUGH = 20
ROWS = 2000
NAMES = {
    "winner",
    "preferred",
    "preference",
    "choice",
    "better",
    "best",
    "selected",
    "verdict",
    "vote",
    "label",
}
TIES = ("", "tie", "tied", "draw", "both", "neither", "equal", "same", "none", "bothbad")


@check(
    "DATA110",
    title="the sides of pairs are those that their file names",
    severity="warning",
    methods=("reward", "dpo"),
)
def winner_unread(at: AtData) -> Iterator[Finding]:
    judged = False
    for head in at.heads:
        columns = at.source(head.key).columns
        sides = columns.get("chosen", "chosen"), columns.get("rejected", "rejected")
        named = [name for name in head.columns or () if name not in sides and NAMES & _words(name)]
        if head.place != "file" or not named or not set(sides) <= set(head.columns or ()):
            continue
        rows = read_first_rows(Path(head.looked_for), ROWS)
        for name in named:
            told = _read(rows, name, sides)
            if told is None:
                continue
            judged = True
            wrong = [place for place, side in told if side]
            if len(wrong) >= SHARE * len(told):
                yield Finding(
                    message=f"In {len(wrong)} of {len(told)} rows of {head.label} the column {name}, which nothing "
                    f"reads, names {sides[1]} as the better answer, and {sides[1]} is read as the rejected one.",
                    fix=f"Write a file whose chosen answer is the one that {name} names, and leave out ties.",
                    where=Where(file=head.label, row=wrong[0], key=head.key),
                )
    if not judged:
        raise NotApplicable("no file names the better one of its columns of answers")


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z]+", name.lower()))


def _read(
    rows: Sequence[Mapping[str, Any]], name: str, sides: tuple[str, str]
) -> list[tuple[int, int]] | None:
    """The rows, from 1, whose value names a side, and which; None where the column is about something else."""
    marks = tell_apart(*(side.lower() for side in sides))
    if "label" in _words(name) and any(mark.isdigit() for mark in marks):
        return None  # a label of 0 and 1 may say anything
    told, ties = [], 0
    for place, row in enumerate(rows, 1):
        value = re.sub(r"[^a-z0-9]+", " ", str(row.get(name, "")).lower().removesuffix(".0")).strip()
        found = [
            side
            for side, (whole, mark) in enumerate(zip(sides, marks, strict=True))
            if value == re.sub(r"[^a-z0-9]+", " ", whole.lower()).strip() or value.split()[-1:] == [mark]
        ]
        if len(found) == 1:
            told.append((place, found[0]))
        ties += value.split()[:1] in ([one] for one in TIES) or not value
    return told if len(told) >= ENOUGH and len(told) + ties >= NEARLY_ALL * len(rows) else None


@winner_unread.fault
def answers_of_an_arena(world: World) -> None:
    from ftrun.checks.testing import dpo_full

    world.recipe["method"] = "dpo"
    world.recipe["data"]["train"][0]["columns"] = {"chosen": "response_a", "rejected": "response_b"}
    world.rows = [
        {
            "prompt": row["prompt"],
            "response_a": row["rejected" if number % 2 else "chosen"],
            "response_b": row["chosen" if number % 2 else "rejected"],
            "winner": "model_b" if number % 2 else "model_a",
        }
        for number, row in enumerate(dpo_full(world.folder).rows)
    ]


@winner_unread.fault
def the_number_of_the_better_answer(world: World) -> None:
    from ftrun.checks.testing import reward_full

    world.recipe["method"] = "reward"
    world.recipe["data"]["train"][0]["columns"] = {"chosen": "answer_0", "rejected": "answer_1"}
    world.rows = [
        {
            "prompt": row["prompt"],
            "answer_0": row["rejected" if number % 4 else "chosen"],
            "answer_1": row["chosen" if number % 4 else "rejected"],
            "better_answer_id": int(number % 4 > 0),
        }
        for number, row in enumerate(reward_full(world.folder).rows)
    ]
