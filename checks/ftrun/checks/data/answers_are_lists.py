"""Answers are lists or messages that were turned into text.

Symptom: the model answers `['Paris']`, with the brackets.
Cause: a column of lists went through CSV or `str()`: what was one text in a list is now a text with brackets; or whole
messages, `{'role': 'assistant', …}`, became text.
Fix: take the text out of the list where the file is made.
Prevention: write jsonl or parquet, which keep lists.
Source: told are answers of which 95 % are lists of just one text, as Python or JSON writes them, or messages with a
role: answers that are JSON by intent are of other shapes now and then, or their prompts speak of lists or of JSON.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import clip, last_exchange, parts_of, spread
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

ASKS = re.compile(r"\b(?:json|lists?|arrays?)\b", re.IGNORECASE)
NEARLY_ALL = 0.95
ENOUGH = 16
SAMPLE = 256
LONGEST = 20_000
"""Characters of a text that is read as a list."""


@check(
    "DATA057",
    title="answers are texts, not lists written as text",
    severity="warning",
    methods=("sft", "reward", "dpo"),
)
def answers_are_lists(at: AtData) -> Iterator[Finding]:
    sources = [one for one in at.sources if one.format != "text"]
    if not sources:
        raise NotApplicable("no source has prompts and answers")
    for source in sources:
        chosen = [source.examples[int(i)] for i in spread(len(source.examples), SAMPLE)]
        answers = [last_exchange(example)[1] for example in chosen]
        wrapped = sum(map(_is_wrapped, answers))
        asked = sum(
            any(ASKS.search(part.text) for part in parts_of(one, "completion")[:-1]) for one in chosen
        )
        if (
            len(answers) >= ENOUGH
            and wrapped >= NEARLY_ALL * len(answers)
            and asked < NEARLY_ALL * len(answers)
        ):
            yield Finding(
                message=f"{wrapped} of {len(answers)} answers of {source.label} that were looked at are lists or "
                f"messages written as text: {clip(answers[0], 60)}.",
                fix="Take the texts out of their lists where the file is made.",
                where=Where(file=source.label, row=source.numbers[0], key=source.key),
            )


def _is_wrapped(text: str) -> bool:
    """Whether a text is a list of one text, or a message or a list of messages, as Python or JSON writes it."""
    if text[:1] not in ("[", "{") or len(text) > LONGEST:
        return False
    try:
        value: Any = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    values = value if isinstance(value, list) else [value]
    return (isinstance(value, list) and len(value) == 1 and isinstance(value[0], str)) or (
        bool(values) and all(isinstance(one, dict) and {"role", "content"} <= one.keys() for one in values)
    )


@answers_are_lists.fault
def lists_went_through_a_table(world: World) -> None:
    for row in world.rows:
        row["completion"] = str([row["completion"]])


@answers_are_lists.fault
def messages_became_text(world: World) -> None:
    for row in world.rows:
        row["completion"] = str([{"role": "assistant", "content": row["completion"]}])
