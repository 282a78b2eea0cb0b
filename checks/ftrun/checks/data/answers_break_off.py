"""Answers break off in the middle of a sentence.

Symptom: the model stops in the middle of its sentences.
Cause: answers were generated with a budget of tokens that many of them used up (`finish_reason: length`), or were cut
at a number of words or tokens by an export.
Fix: remove these answers, or generate them again with a larger budget.
Prevention: keep the reason for which a generation stopped, and drop what did not end by itself.
Source: told are answers of eight words or more whose last one cannot end a sentence: an article, a conjunction, a word
such as `their`, a comma. Of those cut anywhere about one in seven ends so. 2 % of them are a warning: of 1,597 answers
of Alpaca and of judged pairs none does, nor of 8,792 of GSM8K. English only. Of pairs the chosen side is judged: a
rejected answer may be cut on purpose. Plain text is often divided into pieces, and is not judged, nor is verse that a
prompt asks for, nor a diff, which ends with any line of a file.
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

SHARE = 0.02
WORDS = 8
VERSE = re.compile(r"\b(?:poems?|verses?|lyrics|songs?|sonnets?|haikus?|rhymes?|stanzas?)\b", re.IGNORECASE)
DIFF = re.compile(r"^(?:@@ -\d|diff --git |--- \S+\n\+\+\+ )", re.MULTILINE)
OPEN = re.compile(
    r"\b(?:the|an?|and|or|its|their|our|your|my|every|whose|which|than|because|between|during)$|,$"
)
"""Words that something follows in talk as well, where sentences end without a full stop and with `of` or `was`."""


@check(
    "DATA060",
    title="answers end with the end of a sentence",
    severity="warning",
    methods=("sft", "reward", "dpo"),
)
def answers_break_off(at: AtData) -> Iterator[Finding]:
    yield from tell_answers(
        at.sources,
        _breaks_off,
        share=SHARE,
        what="end with a word that cannot end a sentence: they were cut",
        fix="Remove the answers that were cut, or generate them again with a larger budget of tokens.",
    )


def _breaks_off(exchange: Exchange) -> bool:
    text = exchange.answered.rstrip()
    cut = OPEN.search(text) is not None and len(text.split()) >= WORDS
    return cut and VERSE.search(exchange.asked) is None and DIFF.search(text) is None


@answers_break_off.fault
def the_budget_of_the_generator_ended(world: World) -> None:
    for number, row in enumerate(world.rows):
        row["completion"] += " I have seen it myself, and the window beside it was open in the morning."
        if number % 2:
            row["completion"] = row["completion"].partition(" window")[0]
