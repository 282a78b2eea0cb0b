"""Placeholders of a template stand in the rows, where what belongs there was never filled in.

Symptom: the model answers something about `{question}`, or writes such words itself.
Cause: a template was written into the rows without its values: an f-string without the f, a second pair of braces, a
key that has another name.
Fix: fill the templates where the rows are made.
Prevention: look at a row with `ftrun preview`.
Source: told are names in braces, and words such as `[INSERT …]`, that stand in half of the rows in the very same
spelling. What belongs to LaTeX is left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.examples import clip, parts_of, spread
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

HOLE = re.compile(
    r"(?<![\\\w^_}\]$])\{{1,2} ?[A-Za-z][A-Za-z0-9_.]{1,30} ?\}{1,2}"  # {name}, {{ name }}
    r"|\$\{[A-Za-z_]\w{1,30}\}|%\([A-Za-z_]\w{1,30}\)s"  # ${name}, %(name)s
    r"|[\[<](?:insert|your|enter) [^\[\]<>]{2,40}[\]>]",  # [INSERT NAME HERE]
    re.IGNORECASE,
)
HALF = 0.5
ENOUGH = 16
SAMPLE = 512


@check("DATA055", title="no placeholder of a template is left in the rows", severity="warning")
def placeholders_unfilled(at: AtData) -> Iterator[Finding]:
    for source in at.sources:
        rows = (spread(len(source.examples) // source.sides, SAMPLE) * source.sides).tolist()
        texts = [" ".join(part.text for part in parts_of(source.examples[row], "all")) for row in rows]
        counts = Counter(hole for text in texts for hole in set(HOLE.findall(text)))
        holes = [hole for hole, count in counts.most_common() if count >= max(ENOUGH, HALF * len(texts))]
        if holes:
            first = next(number for number, text in enumerate(texts) if holes[0] in text)
            start = max(0, texts[first].index(holes[0]) - 60)
            yield Finding(
                message=f"{counts[holes[0]]} of {len(texts)} rows of {source.label} that were looked at hold the text "
                f"{' and '.join(map(repr, holes[:3]))}: a template that was not filled in.",
                fix="Fill the template where the rows are made.",
                where=Where(file=source.label, row=source.numbers[rows[first]], key=source.key),
                evidence=(clip(texts[first][start : start + 160]),),
            )


@placeholders_unfilled.fault
def the_question_is_a_name_in_braces(world: World) -> None:
    for number, row in enumerate(world.rows):
        row["prompt"] = f"{number}. Answer the question: {{question}}\n"


@placeholders_unfilled.fault
def a_greeting_lacks_its_name(world: World) -> None:
    for row in world.rows:
        row["prompt"] = "Dear {{ name }}, " + row["prompt"]
