"""Text is escaped for another place than this: entities of HTML, or line breaks written as `\\n`.

Symptom: the model writes `&amp;` for & or a backslash and an n where a line should end.
Cause: text was taken from a page without being decoded, or went through JSON once more than it was read.
Fix: undo it where the rows are made: `html.unescape(text)`, or `json.loads` once more.
Prevention: look at a row with `ftrun preview`.
Source: told are entities in 5 % of the answers, outside of code and of text that has tags, which is HTML by intent;
such entities for quotes and spaces between tags of running text, in 5 % of the answers, where half have no tags; and
a backslash and an n behind the end of a sentence, or two of them, in 2 % of the answers, where these have no line break
of their own. A prompt that speaks of HTML or of escaping wants that. Of 10,389 answers of Alpaca, GSM8K and judged
pairs one has the first, none has the second.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.exchanges import Exchange, read_exchanges, tell_answers, with_answers
from ftrun.checks.finding import Finding
from ftrun.checks.rows import SourceRows
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
HALF = 0.5
TAG = re.compile(r"</?([a-z][a-z0-9]*)\b[^<>]*>", re.IGNORECASE)
RUNNING = {"p", "br", "div", "span", "b", "i", "em", "strong", "u", "a", "ul", "ol", "li", "blockquote"}
QUOTE = re.compile(r"&(?:quot|apos|nbsp|rsquo|lsquo|ldquo|rdquo|#0?39|#34|#x27|#160|#82\d\d);")
MARKED = re.compile(r"html|xml|escap|entit|\bweb|page|site|markup|css|\btags?\b|wordpress", re.IGNORECASE)
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
    for source in filter(_is_plain, with_answers(at.sources)):
        yield from tell_answers(
            [source],
            _is_scraped,
            share=ENTITIES,
            what="are pieces of a page, with tags and entities such as `&#39;`, where the others are plain text",
            fix="Take the text out of the tags where the rows are made, and decode it: `html.unescape(text)`.",
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


def _is_plain(source: SourceRows) -> bool:
    """Whether half of the answers have no tags."""
    read = read_exchanges(source)
    return sum(MARKUP.search(one.answered) is None for one in read) >= HALF * len(read)


def _is_scraped(exchange: Exchange) -> bool:
    """Whether an answer is running text of a page: who writes HTML by hand writes quotes as they are."""
    text = exchange.answered.strip()
    tags = TAG.findall(text)
    is_text = bool(tags) and "```" not in text and all(tag.lower() in RUNNING for tag in tags)
    return is_text and QUOTE.search(text) is not None and MARKED.search(exchange.asked) is None


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


@text_escaped.fault
def a_third_are_pieces_of_pages(world: World) -> None:
    for row in world.rows[::3]:
        row["completion"] = f"<p>It&#39;s here:<br />{row['completion']}</p>"
