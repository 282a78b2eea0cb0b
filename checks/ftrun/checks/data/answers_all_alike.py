"""All answers are the same text.

Symptom: the loss falls to 0 in a few steps, and the model says one thing whatever it is asked.
Cause: a column with a default value, or the text of a failed generation, was taken for the answers.
Fix: name the column with the real answers under `columns:`, or make the file anew.
Prevention: count the different answers before training.
Source: told from 95 % of the rows on, where at least half of the prompts differ. What is the same in each row teaches
nothing about prompts. To decline is the exception: one refusal for all that is to be refused is a data set too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import clip, last_exchange, spread
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

NEARLY_ALL, HALF = 0.95, 0.5
WORDS = 3
"""A label of fewer words may be the right one for all of a few rows."""

ENOUGH = 16
"""Rows below which nothing is concluded."""

SAMPLE = 1024
DECLINES = re.compile(r"\b(?:sorry|cannot|can[’']?t|unable|not able|won[’']?t|not allowed)\b", re.IGNORECASE)


@check(
    "DATA053", title="answers differ from each other", severity="warning", methods=("sft", "reward", "dpo")
)
def answers_all_alike(at: AtData) -> Iterator[Finding]:
    sources = [one for one in at.sources if one.format != "text"]
    if not sources:
        raise NotApplicable("no source has prompts and answers")
    for source in sources:
        rows = spread(len(source.examples) // source.sides, SAMPLE).tolist()
        for side in range(source.sides):
            exchanges = [last_exchange(source.examples[row * source.sides + side]) for row in rows]
            if len(exchanges) < ENOUGH or len({asked for asked, _ in exchanges}) < HALF * len(exchanges):
                continue
            (text, count), *_ = Counter(answered for _, answered in exchanges).most_common(1)
            if count < NEARLY_ALL * len(exchanges) or DECLINES.search(text):
                continue
            if len(text.split()) >= WORDS:
                kind = "answers" if source.sides == 1 else ("preferred answers", "rejected answers")[side]
                yield Finding(
                    message=f"{count} of {len(exchanges)} {kind} of {source.label} that were looked at are the same: "
                    f"{clip(text, 80)}.",
                    fix=f"Name the column that holds the real answers under `columns:` of {source.key}, or make the "
                    "file anew.",
                    where=Where(file=source.label, row=source.numbers[0], key=source.key),
                )


@answers_all_alike.fault
def the_answers_are_a_default(world: World) -> None:
    for row in world.rows:
        row["completion"] = "I am not sure about that."


@answers_all_alike.fault
def every_rejected_answer_is_one_text(world: World) -> None:
    from ftrun.checks.testing import dpo_full

    other = dpo_full(world.folder)
    world.recipe, world.rows = other.recipe, other.rows
    for row in world.rows:
        row["rejected"] = "The generation failed after three attempts."
