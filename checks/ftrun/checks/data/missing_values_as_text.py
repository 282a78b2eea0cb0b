"""Missing values were written as text, and are trained as answers.

Symptom: now and then the model answers `nan`.
Cause: a table library wrote its missing values into the file as words: `nan`, `<NA>`, `#N/A`, `undefined`.
Fix: drop these rows where the file is made.
Prevention: drop missing values before turning a column into text.
Source: told from 2 rows and 0.5 % of those looked at on. `None` and `null` count where answers are sentences, with at
least twenty different ones: as labels they may be meant. A row whose prompt has the word itself means it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from statistics import median
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.examples import last_exchange, parts_of, spread
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

ALWAYS = {"nan", "NaN", "<NA>", "NaT", "#N/A", "#VALUE!", "#REF!", "#NAME?", "undefined", "[object Object]"}
AMONG_SENTENCES = {"None", "null", "NULL"}
LABELS = 20
"""Different answers below which they may be labels."""

WORDS = 3
FEW, SHARE = 2, 0.005
SAMPLE = 4096


@check("DATA056", title="no missing value is written as text", severity="warning")
def missing_values_as_text(at: AtData) -> Iterator[Finding]:
    for source in at.sources:
        rows = spread(len(source.examples), SAMPLE).tolist()
        exchanges = [last_exchange(source.examples[row]) for row in rows]
        texts = {text for exchange in exchanges for text in exchange}
        answers = [answer for _, answer in exchanges if answer]
        are_sentences = (
            len(set(answers)) >= LABELS and median(len(answer.split()) for answer in answers) >= WORDS
        )
        words = ALWAYS | AMONG_SENTENCES if are_sentences else ALWAYS
        found = [
            row
            for row, exchange in zip(rows, exchanges, strict=True)
            if words & set(exchange) and not _is_meant(source.examples[row], exchange[1])
        ]
        if len(found) >= FEW and len(found) >= SHARE * len(rows):
            written = sorted(words & texts)
            yield Finding(
                message=f"In {len(found)} of {len(rows)} examples of {source.label} that were looked at the prompt or "
                f"the answer is {' or '.join(map(repr, written))}, which is what a missing value is written as.",
                fix="Drop these rows where the file is made.",
                where=Where(file=source.label, row=source.numbers[found[0]], key=source.key),
                evidence=tuple(f"row {source.numbers[row]}" for row in found[:5]),
            )


def _is_meant(example: Mapping[str, Any], answer: str) -> bool:
    """Whether the word that answers stands in what is asked, among others."""
    word = re.compile(rf"(?<!\w){re.escape(answer)}(?!\w)")
    asked = (part.text.strip() for part in parts_of(example, "completion") if not part.answer)
    return any(text != answer and word.search(text) for text in asked)


@missing_values_as_text.fault
def a_table_wrote_its_missing_values(world: World) -> None:
    for row in world.rows[::5]:
        row["completion"] = "nan"


@missing_values_as_text.fault
def nothing_became_a_word(world: World) -> None:
    for row in world.rows[::5]:
        row["completion"] = str(None)
