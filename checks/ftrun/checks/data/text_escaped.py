"""Text is escaped for another place than this: entities of HTML, or line breaks written as `\\n`.

Symptom: the model writes `&amp;` for & or a backslash and an n where a line should end.
Cause: text was taken from a page without being decoded, or went through JSON once more than it was read.
Fix: undo it where the rows are made: `html.unescape(text)`, or `json.loads` once more.
Prevention: look at a row with `ftrun preview`.
Source: told are entities in 5 % of the answers, outside of code and of text that has tags, which is HTML by intent; and
a backslash and an n behind the end of a sentence, or two of them, in 2 % of the answers, where these have no line break
of their own. A prompt that speaks of HTML or of escaping wants that. Of 10,389 answers of Alpaca, GSM8K and judged
pairs one has the first, none has the second.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.exchanges import Exchange, tell_answers
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

ENTITIES, BREAKS = 0.05, 0.02
ENTITY = re.compile(
    r"&(?:amp|lt|gt|quot|apos|nbsp|rsquo|lsquo|ldquo|rdquo|ndash|mdash|hellip|#\d{2,4}|#x[0-9a-f]{2,4});"
)
WANTED = re.compile(r"html|xml|escap|entit", re.IGNORECASE)
"""What a prompt speaks of whose answer is escaped on purpose."""

MARKUP = re.compile(r"</?[a-z][a-z0-9]*(?: [^<>]*)?/?>|```", re.IGNORECASE)
ESCAPED = re.compile(r"\\n\\n|[.:!?]\\n(?:[A-Z0-9*-]|$)")


CODE = re.compile(r"[\n`]|^[\[{]|[{\[][\"']")
"""A line break of the text's own, code, or JSON and the like, in which line breaks are written so."""


@check(
    "DATA063",
    title="text is not escaped for another place",
    severity="warning",
    methods=("sft", "reward", "dpo"),
)
def text_escaped(at: AtData) -> Iterator[Finding]:
    yield from tell_answers(
        at.sources,
        _holds_entities,
        share=ENTITIES,
        what="hold entities of HTML, such as `&amp;`",
        fix="Decode the text where the rows are made: `html.unescape(text)`.",
    )
    yield from tell_answers(
        at.sources,
        _breaks_are_escaped,
        share=BREAKS,
        what="hold a backslash and an n where a line should end",
        fix="Read the text as JSON once more where the rows are made, so that line breaks are line breaks.",
    )


def _holds_entities(exchange: Exchange) -> bool:
    text = exchange.answered
    found = ENTITY.search(text) is not None and MARKUP.search(text) is None
    return found and WANTED.search(exchange.asked) is None


def _breaks_are_escaped(exchange: Exchange) -> bool:
    text = exchange.answered.strip()
    return CODE.search(text) is None and ESCAPED.search(text) is not None


@text_escaped.fault
def a_page_was_not_decoded(world: World) -> None:
    for row in world.rows:
        row["completion"] = f"&quot;{row['completion']}&quot;"


@text_escaped.fault
def json_was_written_twice(world: World) -> None:
    for row in world.rows:
        row["completion"] = f"I went there.\\nI looked.\\n\\n{row['completion']}"
