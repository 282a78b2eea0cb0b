"""Placeholders of a template stand in the rows, where what belongs there was never filled in.

Symptom: the model answers something about `{question}`, or writes such words itself.
Cause: a template was written into the rows without its values: an f-string without the f, a second pair of braces, a
key that has another name.
Fix: fill the templates where the rows are made.
Prevention: look at a row with `ftrun preview`.
Source: told are names in braces, and words such as `[INSERT …]`, that stand in half of the rows in the very same
spelling; and prompts with such a name that 2 % of the rows have to the letter, with different answers. What belongs to
LaTeX, to code, to a path (`/users/{id}`) or to a shell (`${HOME}`) is left out, and what stands in a prompt and in its
answer, which is what the row is about. Answers that differ otherwise may be templates by intent (`Hi {name}, your order
is on its way`): there, a name counts that is called like a column, and not where the prompt speaks of templates.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.examples import clip, last_exchange, parts_of, spread
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

HOLE = re.compile(
    r"(?<![\\\w^_{}\]$/])\{{1,2} ?[A-Za-z][A-Za-z0-9_.]{1,30} ?\}{1,2}"  # {name}, {{ name }}
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

SHELL = re.compile(r"\$\{[A-Z0-9_]+\}")
COLUMNS = re.compile(
    r"\W*(?:prompt|question|query|instruction|input|context|document|passage|text|answer|output|response|completion)\W*"
)
"""What a template for rows is filled with, in its braces."""

HALF, SAME = 0.5, 0.02
ENOUGH, FEW = 16, 8
SAMPLE = 512


@check("DATA055", title="no placeholder of a template is left in the rows", severity="warning")
def placeholders_unfilled(at: AtData) -> Iterator[Finding]:
    for source in at.sources:
        rows = (spread(len(source.examples) // source.sides, SAMPLE) * source.sides).tolist()
        found = [_holes(source.examples[row]) for row in rows]
        counts = Counter(hole for one in found for hole in one)
        holes = [hole for hole, count in counts.most_common() if count >= max(ENOUGH, HALF * len(rows))]
        if holes:
            told = [place for place, one in enumerate(found) if holes[0] in one]
        else:
            told, holes = _prompts_alike([source.examples[row] for row in rows], found)
        if holes:
            first = told[0]
            text = " ".join(part.text for part in parts_of(source.examples[rows[first]], "all"))
            start = max(0, text.index(holes[0]) - 60)
            yield Finding(
                message=f"{len(told)} of {len(rows)} rows of {source.label} that were looked at hold the text "
                f"{' and '.join(map(repr, holes[:3]))}: a template that was not filled in.",
                fix="Fill the template where the rows are made.",
                where=Where(file=source.label, row=source.numbers[rows[first]], key=source.key),
                evidence=(clip(text[start : start + 160]),),
            )


def _prompts_alike(
    examples: Sequence[Mapping[str, Any]], found: Sequence[set[str]]
) -> tuple[list[int], list[str]]:
    """The places of the examples that have one and the same prompt with placeholders in it, and different answers; and
    these placeholders. Nothing where there are few."""
    said = {place: last_exchange(example) for place, example in enumerate(examples) if found[place]}
    for asked, _ in Counter(asked for asked, _ in said.values()).most_common(1):
        alike = [place for place in said if said[place][0] == asked]
        holes = [hole for hole in sorted(found[alike[0]]) if hole in asked]
        answers = {said[place][1] for place in alike}
        if holes and len(alike) >= max(FEW, SAME * len(examples)) and len(answers) >= HALF * len(alike):
            return alike, holes
    return [], []


def _holes(example: Mapping[str, Any]) -> set[str]:
    """The placeholders of a row that stand in what is asked or in what is answered, and not in both."""
    asked, answered, unfilled = set[str](), set[str](), set[str]()
    wanted = False
    for part in parts_of(example, "completion"):
        text = FENCED.sub("", part.text)
        found = HOLE.findall(text) if not CODE.search(text) else []
        found = [hole for hole in found if not SHELL.match(hole)]
        if part.role == "text":  # letters are drafted with words in brackets
            asked.update(hole for hole in found if hole[0] not in "[<")
        elif not part.answer:
            wanted = wanted or WANTED.search(HOLE.sub("", text)) is not None
            asked.update(found)
        else:
            answered.update(found)
            unfilled.update(hole for hole in found if COLUMNS.fullmatch(hole.lower()) and not wanted)
    return (asked - answered) | (unfilled - asked)


@placeholders_unfilled.fault
def the_question_is_a_name_in_braces(world: World) -> None:
    for number, row in enumerate(world.rows):
        row["prompt"] = f"{number}. Answer the question: {{question}}\n"


@placeholders_unfilled.fault
def a_greeting_lacks_its_name(world: World) -> None:
    for row in world.rows:
        row["prompt"] = "Dear {{ name }}, " + row["prompt"]


@placeholders_unfilled.fault
def a_fifth_of_the_prompts_is_the_template(world: World) -> None:
    world.rows = [{**row, "completion": f"{row['completion']} {n}"} for n, row in enumerate(world.rows * 2)]
    for row in world.rows[::5]:
        row["prompt"] = "Question: {question}\nAnswer:"
