"""Answers were cut at one length before they came here.

Symptom: the model stops in the middle of its sentences, and always after about as many words.
Cause: a column of a table, a spreadsheet or a log holds so many characters and no more: 255, 1,000, 32,767.
Fix: export the answers again, whole; or remove those of that length.
Prevention: look at the longest answers of a file.
Source: at least 5 % of the answers and five of them are as long as the longest, to the character, end without a mark
that ends a sentence or a block, and are prose of at least 100 characters; no other length is nearly as usual.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.examples import clip, parts_of
from ftrun.checks.finding import Finding
from ftrun.checks.rows import SourceRows
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

LONG, LEAST, SHARE = 100, 5, 0.05
WORD = 15
"""Characters for a space, which prose has more often."""

ENDS = tuple(".!?…。！？؟\"'”’»)]}>`:;|*_-~=")
UNENDED = 0.8


@check(
    "DATA048",
    title="answers are whole where they come from",
    severity="warning",
    methods=("sft", "reward", "dpo"),
)
def answers_cut_by_export(at: AtData) -> Iterator[Finding]:
    for source in at.sources:
        answers = _answers(source)
        if not answers:
            continue
        counts = Counter(len(text) for _, text in answers)
        longest = max(counts)
        cut = [(i, text) for i, text in answers if len(text) == longest]
        others = max((count for length, count in counts.items() if length != longest), default=0)
        unended = sum(not text.rstrip().endswith(ENDS) for _, text in cut)
        if (
            longest >= LONG
            and len(cut) >= max(LEAST, SHARE * len(answers), 2 * others)
            and unended >= UNENDED * len(cut)
            and sum(text.count(" ") for _, text in cut) >= len(cut) * longest / WORD
        ):
            number, text = cut[0]
            yield Finding(
                message=f"{len(cut)} of {len(answers)} answers of {source.label} are {longest} characters "
                f"long, as long as the longest, and {unended} of them break off.",
                fix="Export the answers again, whole, or remove those of that length.",
                where=Where(file=source.label, row=source.numbers[number], key=source.key),
                evidence=(f"row {source.numbers[number]} ends {clip(text[-40:])}",),
            )


def _answers(source: SourceRows) -> list[tuple[int, str]]:
    """The last answer of each different row; of plain text none, which is often divided into equal pieces."""
    if source.format == "text":
        return []
    seen: dict[str, int] = {}
    for i, example in enumerate(source.examples):
        said = [part.text for part in parts_of(example, source.loss_on) if part.answer]
        if said:
            seen.setdefault(said[-1], i)
    return [(i, text) for text, i in seen.items()]


@answers_cut_by_export.fault
def a_column_holds_255_characters(world: World) -> None:
    for number, row in enumerate(world.rows):
        if number % 3:
            row["completion"] = (f"In room {number} it is so: {row['completion']} " * 9)[:255]
