"""Placeholders of a template stand in the rows, where what belongs there was never filled in.

Symptom: the model answers something about `{question}`, or writes such words itself.
Cause: a template was written into the rows without its values: an f-string without the f, a second pair of braces, a
key that has another name.
Fix: fill the templates where the rows are made.
Prevention: look at a row with `ftrun preview`.
Source: told are names in braces, and words such as `[INSERT …]`, that stand in half of the rows in the very same
spelling. What belongs to LaTeX or to code is left out, and what stands in a prompt and in its answer, which is what the
row is about; in answers also words such as `[Your Name]`, which letters are drafted with, and all of it where the
prompt speaks of templates or prompts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.examples import clip, parts_of, spread
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

HOLE = re.compile(
    r"(?<![\\\w^_{}\]$])\{{1,2} ?[A-Za-z][A-Za-z0-9_.]{1,30} ?\}{1,2}"  # {name}, {{ name }}
    r"|\$\{[A-Za-z_]\w{1,30}\}|%\([A-Za-z_]\w{1,30}\)s"  # ${name}, %(name)s
    r"|[\[<](?:insert|your|enter) [^\[\]<>]{2,40}[\]>]",  # [INSERT NAME HERE]
    re.IGNORECASE,
)
FENCED = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
CODE = re.compile(
    r"^\s*(?:def|class|import|from|function|const|let|var|export|return)\b|^\s*(?:#!|#include|<\w)", re.M
)
WANTED = re.compile(r"templat|placeholder|prompt|variable|jinja|mustache|handlebars", re.IGNORECASE)
"""What a prompt speaks of whose answer is to hold placeholders."""

HALF = 0.5
ENOUGH = 16
SAMPLE = 512


@check("DATA055", title="no placeholder of a template is left in the rows", severity="warning")
def placeholders_unfilled(at: AtData) -> Iterator[Finding]:
    for source in at.sources:
        rows = (spread(len(source.examples) // source.sides, SAMPLE) * source.sides).tolist()
        found = [_holes(source.examples[row]) for row in rows]
        counts = Counter(hole for one in found for hole in one)
        holes = [hole for hole, count in counts.most_common() if count >= max(ENOUGH, HALF * len(rows))]
        if holes:
            first = next(number for number, one in enumerate(found) if holes[0] in one)
            text = " ".join(part.text for part in parts_of(source.examples[rows[first]], "all"))
            start = max(0, text.index(holes[0]) - 60)
            yield Finding(
                message=f"{counts[holes[0]]} of {len(rows)} rows of {source.label} that were looked at hold the text "
                f"{' and '.join(map(repr, holes[:3]))}: a template that was not filled in.",
                fix="Fill the template where the rows are made.",
                where=Where(file=source.label, row=source.numbers[rows[first]], key=source.key),
                evidence=(clip(text[start : start + 160]),),
            )


def _holes(example: Mapping[str, Any]) -> set[str]:
    """The placeholders of a row that stand in what is asked or in what is answered, and not in both."""
    asked, answered = set[str](), set[str]()
    wanted = False
    for part in parts_of(example, "completion"):
        text = FENCED.sub("", part.text)
        found = () if CODE.search(text) else HOLE.findall(text)
        if not part.answer:
            wanted = wanted or WANTED.search(HOLE.sub("", text)) is not None
        if part.answer and not wanted:
            answered.update(hole for hole in found if hole[0] not in "[<")
        elif not part.answer:
            asked.update(found)
    return asked ^ answered


@placeholders_unfilled.fault
def the_question_is_a_name_in_braces(world: World) -> None:
    for number, row in enumerate(world.rows):
        row["prompt"] = f"{number}. Answer the question: {{question}}\n"


@placeholders_unfilled.fault
def a_greeting_lacks_its_name(world: World) -> None:
    for row in world.rows:
        row["prompt"] = "Dear {{ name }}, " + row["prompt"]
