"""All answers are the same text.

Symptom: the loss falls to 0 in a few steps, and the model says one thing whatever it is asked.
Cause: a column with a default value, or the text of a failed generation, was taken for the answers.
Fix: name the column with the real answers under `columns:`, or make the file anew.
Prevention: count the different answers before training.
Source: told from 95 % of the rows on, where at least half of the prompts differ. What is the same in each row teaches
nothing about prompts. To decline is the exception: one refusal for all that is to be refused is a data set too. A label
of one or two words is told where all sources that are trained, of a hundred rows at least, hold nothing else: a file
may hold the rows of one class.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import clip, last_exchange, parts_of, spread
from ftrun.checks.finding import Finding
from ftrun.checks.rows import SourceRows
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

NEARLY_ALL, HALF = 0.95, 0.5
WORDS = 3
"""A label of fewer words may be the right one for all of a few rows."""

MANY = 100
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
    yield from _judge_labels(at.sources)
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


def _judge_labels(sources: Sequence[SourceRows]) -> Iterator[Finding]:
    """The finding that one short text is all that is trained, if it is."""
    trained = [one for one in sources if one.key.startswith("data.train") and one.sides == 1]
    rows = sum(len(one.examples) for one in trained)
    answers, asked = set[str](), set[str]()
    for source in trained:
        for row in spread(len(source.examples), SAMPLE).tolist():
            parts = parts_of(source.examples[row], source.loss_on)
            answers.update(part.text.strip() for part in parts if part.answer)
            asked.add(last_exchange(source.examples[row])[0])
            if len(answers) > 1:
                return
    text = next(iter(answers), "")
    enough = rows >= MANY and len(asked) >= HALF * min(rows, SAMPLE)
    if text and len(text.split()) < WORDS and enough and not DECLINES.search(text):
        yield Finding(
            message=f"All answers of {', '.join(one.label for one in trained)} that were looked at are the same: "
            f"{clip(text, 80)}. {rows:,} rows teach one word.",
            fix="Add the rows with other answers, or name the column that holds the real ones under `columns:`.",
            where=Where(file=trained[0].label, row=trained[0].numbers[0], key=trained[0].key),
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


@answers_all_alike.fault
def only_one_class_was_exported(world: World) -> None:
    world.rows = [
        {"prompt": f"{n}. {row['prompt']}", "completion": "no"} for n, row in enumerate(world.rows * 4)
    ]
