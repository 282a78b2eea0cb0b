"""What is asked and what is answered, row by row: how checks look for answers that have something wrong in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import clip, parts_of, spread
from ftrun.checks.finding import Finding
from ftrun.checks.rows import SourceRows
from ftrun.schemas.mistake import Where

SAMPLE = 512
"""Rows of a source that are read, evenly spread."""

FEW = 5
"""Answers that may have anything wrong with them, whatever their share."""


@dataclass(frozen=True)
class Exchange:
    """The last answer of an example, and all that is said before it."""

    row: int
    """Row in the file, from 1."""

    asked: str
    """Prompt or messages, system messages included, a line break between two."""

    answered: str
    """As it is written: white space is left."""


def read_exchanges(source: SourceRows, side: int = 0, most: int = SAMPLE) -> list[Exchange]:
    """Up to `most` rows of a source that have an answer; of pairs, one side: 0 is the chosen one."""
    found = []
    for row in spread(len(source.examples) // source.sides, most).tolist():
        number = row * source.sides + side
        parts = parts_of(source.examples[number], "completion")
        last = next((place for place in range(len(parts) - 1, -1, -1) if parts[place].answer), None)
        if last is not None:
            asked = "\n".join(part.text for part in parts[:last])
            found.append(Exchange(source.numbers[number], asked, parts[last].text))
    return found


def with_answers(sources: Sequence[SourceRows]) -> list[SourceRows]:
    """The sources that have prompts and answers. Raises NotApplicable where there is none."""
    found = [one for one in sources if one.loss_on != "nothing" and one.format != "text"]
    if not found:
        raise NotApplicable("no source has prompts and answers")
    return found


def tell_answers(
    sources: Sequence[SourceRows], is_wrong: Callable[[Exchange], bool], *, share: float, what: str, fix: str
) -> Iterator[Finding]:
    """A finding for each source of which more than FEW of the (chosen) answers, and `share` of them, are wrong."""
    for source in with_answers(sources):
        read = read_exchanges(source)
        wrong = [one for one in read if is_wrong(one)]
        if len(wrong) > FEW and len(wrong) >= share * len(read):
            yield Finding(
                message=f"{len(wrong)} of {len(read)} answers of {source.label} that were looked at {what}.",
                fix=fix,
                where=Where(file=source.label, row=wrong[0].row, key=source.key),
                evidence=tuple(f"row {one.row}: {clip(one.answered)}" for one in wrong[:3]),
            )
