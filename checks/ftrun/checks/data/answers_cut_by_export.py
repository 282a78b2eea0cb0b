"""Answers were cut at one length before they came here.

Symptom: the model stops in the middle of its sentences, and always after about as many words.
Cause: a column of a table, a spreadsheet or a log holds so many characters and no more: 255, 1,000, 32,767.
Fix: export the answers again, whole; or remove those of that length.
Prevention: look at the longest answers of a file.
Source: at least 5 % of the answers and five of them are as long as the longest, to the character, end without a mark
that ends a sentence or a block, and are prose of at least 100 characters, not all of as many words; no other length
is nearly as usual.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.examples import clip, parts_of
from ftrun.checks.finding import Finding
from ftrun.checks.rows import LossOn, SourceRows
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ftrun.checks.testing import World

LONG, LEAST, SHARE = 100, 5, 0.05
WORD = 15
"""Characters for a space, which prose has more often."""

ENDS = tuple(".!?…。！？؟\"'”’»)]}>`:;|*_-~=")
UNENDED = 0.8
FORM = 0.7
"""Share of answers of as many words as each other, beyond which a form was filled in."""


@check(
    "DATA048",
    title="answers are whole where they come from",
    severity="warning",
    methods=("sft", "reward", "dpo"),
)
def answers_cut_by_export(at: AtData) -> Iterator[Finding]:
    import numpy as np

    for source in at.sources:
        numbers, lengths = _answers(source)
        if not len(numbers):
            continue
        longest = int(lengths.max())
        others = int(np.bincount(lengths[lengths < longest], minlength=1).max())
        cut = numbers[lengths == longest].tolist()
        if longest < LONG or len(cut) < max(LEAST, SHARE * len(numbers), 2 * others):
            continue
        texts = (_answer(source, number) for number in cut)
        unended, spaces = 0, 0
        words: Counter[int] = Counter()
        for text in texts:
            unended += not text.rstrip().endswith(ENDS)
            spaces += text.count(" ")
            words[len(text.split())] += 1
        is_form = max(words.values()) > FORM * len(cut)
        if unended >= UNENDED * len(cut) and spaces >= len(cut) * longest / WORD and not is_form:
            yield Finding(
                message=f"{len(cut)} of {len(numbers)} answers of {source.label} are {longest} characters "
                f"long, as long as the longest, and {unended} of them break off.",
                fix="Export the answers again, whole, or remove those of that length.",
                where=Where(file=source.label, row=source.numbers[cut[0]], key=source.key),
                evidence=(f"row {source.numbers[cut[0]]} ends {clip(_answer(source, cut[0])[-40:])}",),
            )


def _answers(source: SourceRows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The examples that hold the last answer of each different row, and its length in characters; of plain text
    none, which is often divided into equal pieces."""
    import numpy as np

    examples = () if source.format == "text" else source.examples
    said = (_last_answer(example, source.loss_on) for example in examples)
    facts = ((-1, 0) if text is None else (len(text), hash(text)) for text in said)
    lengths, keys = np.fromiter(chain.from_iterable(facts), np.int64).reshape(-1, 2).T
    held = np.flatnonzero(lengths >= 0)
    first = held[np.sort(np.unique(keys[held], return_index=True)[1])]
    return first, lengths[first]


def _last_answer(example: Mapping[str, Any], loss_on: LossOn) -> str | None:
    said = [part.text for part in parts_of(example, loss_on) if part.answer]
    return said[-1] if said else None


def _answer(source: SourceRows, number: int) -> str:
    return _last_answer(source.examples[number], source.loss_on) or ""


@answers_cut_by_export.fault
def a_column_holds_255_characters(world: World) -> None:
    for number, row in enumerate(world.rows):
        if number % 3:
            row["completion"] = (f"In room {number} it is so: {row['completion']} " * 9)[:255]
