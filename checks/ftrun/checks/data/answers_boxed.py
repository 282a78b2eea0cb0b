"""Answers are boxed: in a Markdown fence, or under one key of JSON that nobody asked for.

Symptom: the model answers `{"response": "Paris"}`, or puts its sentences between lines of three backticks.
Cause: a generator was asked for JSON or Markdown, and what it gave was stored as it came.
Fix: take the texts out of their box where the rows are made.
Prevention: read a generator's JSON before it is stored, and keep the field.
Source: told are 10 % of the answers that are sentences in a fence without a language of code, or five words or more
under one key such as `response`, where the prompt neither speaks of JSON or code blocks nor names that key. Of 10,389
answers of Alpaca, GSM8K and judged pairs none is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.exchanges import Exchange, tell_answers
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

SHARE = 0.1
WORDS = 5
LONGEST = 20_000
"""Characters of a text that is read as JSON."""

ASKED = re.compile(r"json|code ?blocks?|fence|backtick|markdown", re.IGNORECASE)
FENCE = re.compile(r"```(?:text|txt|plaintext|markdown|md)?[ \t]*\n(.*)\n```", re.DOTALL)
SENTENCE = re.compile(r"[A-Z\"'][^{}=;<>|$`]*[.!?:][\")']?")
KEYS = re.compile(
    r"response|answer|final_answer|output|completion|reply|text|generated_text|content|result|message",
    re.IGNORECASE,
)


@check(
    "DATA078", title="answers are plain, not in a box", severity="warning", methods=("sft", "reward", "dpo")
)
def answers_boxed(at: AtData) -> Iterator[Finding]:
    yield from tell_answers(
        at.sources,
        _is_boxed,
        share=SHARE,
        what="are text in a fence or under one key of JSON, for which no prompt asks",
        fix="Take the texts out of their fence or their JSON where the rows are made.",
    )


def _is_boxed(exchange: Exchange) -> bool:
    if ASKED.search(exchange.asked):
        return False
    text = exchange.answered.strip()
    if fenced := FENCE.fullmatch(text):
        first = fenced[1].strip().partition("\n")[0]
        return len(first.split()) >= WORDS and SENTENCE.fullmatch(first) is not None
    if text[:1] != "{" or len(text) > LONGEST:
        return False
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        return False
    if len(value) != 1:
        return False
    ((key, held),) = value.items()
    is_named = KEYS.fullmatch(key) is not None and f'"{key}"' not in exchange.asked
    return is_named and isinstance(held, str) and len(held.split()) >= WORDS


@answers_boxed.fault
def a_generator_gave_json(world: World) -> None:
    for row in world.rows:
        row["completion"] = json.dumps({"response": row["completion"]})


@answers_boxed.fault
def a_generator_gave_markdown(world: World) -> None:
    for row in world.rows[::2]:
        row["completion"] = f"```markdown\n{row['completion']}\n```"
