"""Answers are lists or messages that were turned into text.

Symptom: the model answers `['Paris']`, with the brackets.
Cause: a column of lists went through CSV or `str()`: what was one text in a list is now a text with brackets; or whole
messages, `{'role': 'assistant', …}`, became text.
Fix: take the text out of the list where the file is made.
Prevention: write jsonl or parquet, which keep lists.
Source: told are answers of which 95 % are lists of just one text, as Python or JSON writes them, or messages with a
role: answers that are JSON by intent are of other shapes now and then, or their prompts speak of lists or of JSON. Of
answers that are otherwise text, 3 % are told that are such a list in the quotes of Python, or a record of lists with
the same keys throughout (`{'text': […], 'answer_start': […]}`), whose prompts do not speak of lists, data or code.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import clip, last_exchange, parts_of, spread
from ftrun.checks.exchanges import FEW
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

SHAPED = re.compile(
    r"json|\b(?:lists?|arrays?|dict\w*|records?|tuples?|python|print\w*|code|function|format|output|return\w*|"
    r"column|data|parse|extract|call|tools?)\b",
    re.IGNORECASE,
)
ASKS = re.compile(r"\b(?:json|lists?|arrays?)\b", re.IGNORECASE)
NEARLY_ALL, HALF, SOME = 0.95, 0.5, 0.03
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
            continue
        found = [
            place
            for place in _records(answers)
            if not any(SHAPED.search(part.text) for part in parts_of(chosen[place], "completion")[:-1])
        ]
        plain = sum(answer[:1] not in ("[", "{") for answer in answers)
        if len(found) > max(FEW, SOME * len(answers)) and plain >= HALF * len(answers):
            yield Finding(
                message=f"{len(found)} of {len(answers)} answers of {source.label} that were looked at are lists or "
                f"records written as text: {clip(answers[found[0]], 60)}.",
                fix="Take the texts out of their lists where the file is made.",
                where=Where(
                    file=source.label,
                    row=source.numbers[int(spread(len(source.examples), SAMPLE)[found[0]])],
                    key=source.key,
                ),
            )


def _records(answers: Sequence[str]) -> list[int]:
    """The places of the answers that are one text in a list of Python's, or records of lists with the keys that most
    such records have."""
    read = [_read(answer) for answer in answers]
    keys = Counter(frozenset(value) for value in read if isinstance(value, dict) and value)
    usual = keys.most_common(1)[0][0] if keys else None
    return [
        place
        for place, (text, value) in enumerate(zip(answers, read, strict=True))
        if (isinstance(value, list) and len(value) == 1 and isinstance(value[0], str) and text[1] == "'")
        or (
            isinstance(value, dict)
            and frozenset(value) == usual
            and all(isinstance(one, list) for one in value.values())
        )
    ]


def _is_wrapped(text: str) -> bool:
    """Whether a text is a list of one text, or a message or a list of messages, as Python or JSON writes it."""
    value = _read(text)
    if value is None:
        return False
    values = value if isinstance(value, list) else [value]
    return (isinstance(value, list) and len(value) == 1 and isinstance(value[0], str)) or (
        bool(values) and all(isinstance(one, dict) and {"role", "content"} <= one.keys() for one in values)
    )


def _read(text: str) -> Any:
    """The list or record that a text is, as Python or JSON writes it; None where it is none."""
    if text[:1] not in ("[", "{") or len(text) > LONGEST:
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


@answers_are_lists.fault
def lists_went_through_a_table(world: World) -> None:
    for row in world.rows:
        row["completion"] = str([row["completion"]])


@answers_are_lists.fault
def messages_became_text(world: World) -> None:
    for row in world.rows:
        row["completion"] = str([{"role": "assistant", "content": row["completion"]}])


@answers_are_lists.fault
def some_are_records_of_lists(world: World) -> None:
    for row in world.rows[::3]:
        row["completion"] = str({"text": [row["completion"]], "answer_start": [17]})
