"""Text is what a tokenizer made of it, not what was written.

Symptom: the model writes `▁` or `Ġ` for spaces, `##ing`, `do n't`, or a space before each comma.
Cause: tokens were joined by spaces instead of being decoded; or the data set is one of the old ones whose text was
divided into words, marks and all.
Fix: decode tokens with the tokenizer that made them, or join words and marks again (a detokenizer does).
Prevention: keep the text beside its tokens.
Source: told are marks of tokenizers (`▁word`, `Ġword`, `un ##happy`, `un@@ happy`) in 2 % of the answers, and commas
and `n't` behind a space in 20 % of them. Of 10,389 answers of Alpaca, GSM8K and judged pairs none has the first, one
has the second.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.exchanges import tell_answers
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

MARKED, DIVIDED = 0.02, 0.20
PIECE = re.compile(r"(?:^|\w|\s)[▁Ġ]\w|\w ##\w|\w@@ \w")
WORDS = re.compile(r"[^\W\d_] (?:n't|,) [^\W\d_]")


@check("DATA064", title="text is not left in tokens", severity="warning", methods=("sft", "reward", "dpo"))
def text_in_pieces(at: AtData) -> Iterator[Finding]:
    yield from tell_answers(
        at.sources,
        lambda one: bool(PIECE.search(one.answered)),
        share=MARKED,
        what="hold the marks of a tokenizer",
        fix="Decode the tokens with the tokenizer that made them.",
    )
    yield from tell_answers(
        at.sources,
        lambda one: bool(WORDS.search(one.answered)),
        share=DIVIDED,
        what="have a space before their commas, or `n't` as a word",
        fix="Join words and marks again where the rows are made, as a detokenizer does.",
    )


@text_in_pieces.fault
def tokens_were_joined(world: World) -> None:
    for row in world.rows:
        row["completion"] = "".join(f"▁{word}" for word in row["completion"].split())


@text_in_pieces.fault
def words_were_divided(world: World) -> None:
    for row in world.rows:
        row["completion"] = f"I do n't know , but I think so : {row['completion']}"
