"""A mark at the beginning or the end of an answer tells which side it is on.

Symptom: accuracy is 1 within a few steps, and answers grow no better: what was learnt is the mark.
Cause: the two sides went through different code: one still has its end token, its leading space, its rating or its
label.
Fix: take the mark off, or treat both sides alike, where the pairs are made.
Prevention: read three pairs with `ftrun preview`.
Source: told are marks that 90 % of one side have and at most 10 % of the other: white space at an end, a token such as
`</s>` or `<|end|>` at the end, a word in brackets at the beginning, whose numbers count too (`[score: 5]`). What the
answers say is not judged: what is preferred may well be said in other words. Of 299 judged pairs 4 chosen
answers have such a mark, and no rejected one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import clip
from ftrun.checks.exchanges import read_exchanges
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

NEARLY_ALL, HARDLY_ANY = 0.9, 0.1
ENOUGH = 16
SIDES = ("chosen", "rejected")
END_TOKEN = re.compile(r"(?:<[|｜][^<>\s]{1,40}[|｜]>|</s>|<eos>|<end_of_turn>|\[/?INST\])$")
BRACKETS = re.compile(r"[\[(][\w ]{1,20}(?:[:=] ?[\w./]{1,10})?[\])]")


@check("DATA070", title="no mark tells which answer is chosen", severity="warning", methods=("reward", "dpo"))
def marks_tell_the_sides(at: AtData) -> Iterator[Finding]:
    judged = False
    for source in at.sources:
        sides = [read_exchanges(source, side) for side in range(source.sides)]
        if len(sides) < 2 or len(sides[0]) < ENOUGH:
            continue
        judged = True
        counts = [Counter(mark for one in read for mark in _marks(one.answered)) for read in sides]
        for side, mark in [(number, mark) for number in (0, 1) for mark in sorted(counts[number])]:
            count, other = counts[side][mark], counts[1 - side][mark]
            if count >= NEARLY_ALL * len(sides[side]) and other <= HARDLY_ANY * len(sides[1 - side]):
                first = next(one for one in sides[side] if mark in _marks(one.answered))
                yield Finding(
                    message=f"{count} of {len(sides[side])} {SIDES[side]} answers of {source.label} that were looked "
                    f"at {mark}, and {other} of the {SIDES[1 - side]} ones: this alone tells the sides.",
                    fix="Take it off, or treat both sides alike, where the pairs are made.",
                    where=Where(file=source.label, row=first.row, key=source.key),
                    evidence=(clip(first.answered),),
                )
                break
    if not judged:
        raise NotApplicable(f"no source has {ENOUGH} pairs")


def _marks(text: str) -> set[str]:
    """What an answer has at its ends that is no part of what it says."""
    found = set()
    if text[:1].isspace():
        found.add("begin with white space")
    if text[-1:].isspace():
        found.add("end with white space")
    if token := END_TOKEN.search(text.rstrip()):
        found.add(f"end with {token.group()}")
    if label := BRACKETS.match(text):
        found.add(f"begin with {label.group()}")
    return found


@marks_tell_the_sides.fault
def one_side_has_its_end_token(world: World) -> None:
    for row in world.rows:
        row["rejected"] += "</s>"


@marks_tell_the_sides.fault
def one_side_begins_with_a_space(world: World) -> None:
    for row in world.rows:
        row["chosen"] = f" {row['chosen']}"
