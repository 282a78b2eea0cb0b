"""A join gave each prompt the answers of others.

Symptom: the loss falls no lower than that of answers without prompts; the model answers something else of the same
kind.
Cause: two tables were joined by a key that is not unique (a category, a day, a user), which pairs each prompt with
every answer of its group.
Fix: join by a key that is unique on both sides, and compare the number of rows with that before.
Prevention: let the join check itself: `merge(…, validate="one_to_one")`.
Source: told are sources of which half of the rows have an answer of six words or more that three different prompts
share, and a prompt that has three different answers. Several answers drawn for one prompt are that prompt's own, and
labels are shorter. Of Alpaca, GSM8K and judged pairs no row is so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.examples import clip
from ftrun.checks.exchanges import FEW, read_exchanges, with_answers
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

HALF = 0.5
SEVERAL = 3
WORDS = 6
MOST = 4096
"""Rows at the beginning of a source that are read: what a join multiplies stands together, or is everywhere."""


@check(
    "DATA066", title="no join has multiplied the rows", severity="warning", methods=("sft", "reward", "dpo")
)
def rows_multiplied(at: AtData) -> Iterator[Finding]:
    for source in with_answers(at.sources):
        read = read_exchanges(source, most=MOST)
        prompts, answers = defaultdict(set), defaultdict(set)
        for one in read:
            prompts[one.answered].add(one.asked)
            answers[one.asked].add(one.answered)
        found = [
            one
            for one in read
            if len(prompts[one.answered]) >= SEVERAL
            and len(answers[one.asked]) >= SEVERAL
            and len(one.answered.split()) >= WORDS
        ]
        if len(found) > FEW and len(found) >= HALF * len(read):
            first = found[0]
            yield Finding(
                message=f"In {len(found)} of {len(read)} rows of {source.label} that were looked at the answer is that "
                "of other prompts too, and the prompt has other answers: a join has multiplied the rows.",
                fix="Join prompts and answers by a key that is unique on both sides.",
                where=Where(file=source.label, row=first.row, key=source.key),
                evidence=(
                    f"{len(prompts[first.answered])} prompts have the answer {clip(first.answered, 60)}",
                    f"{len(answers[first.asked])} answers have the prompt {clip(first.asked, 60)}",
                ),
            )


@rows_multiplied.fault
def groups_were_joined(world: World) -> None:
    world.rows = [
        {"prompt": one["prompt"], "completion": other["completion"]}
        for start in range(0, len(world.rows), 4)
        for one in world.rows[start : start + 4]
        for other in world.rows[start : start + 4]
    ]
