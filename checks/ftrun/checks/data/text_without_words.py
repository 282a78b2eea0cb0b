"""Texts are no words: encoded bytes for an answer, or the mark of a picture that is not there.

Symptom: now and then the model writes strings of letters and digits without end, or describes pictures it cannot see.
Cause: a column of bytes, keys or pictures was taken for text; or rows for a model of pictures and text were given to a
model of text alone, with `<image>` where the picture was.
Fix: remove these rows.
Prevention: look at the longest answers of a file, and take from a set of pictures only the rows without one.
Source: told in 1 % of the rows, and six: answers of 100 characters or more without white space, all of them letters,
digits and `+/=_-`, beside answers with spaces, where the prompt speaks of no code or encoding; and prompts that have
`<image>`, `<video>` or `<audio>` on a line of its own that is no token of this tokenizer. Of 10,389 rows of Alpaca,
GSM8K and judged pairs none has either.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.examples import clip
from ftrun.checks.exchanges import FEW, read_exchanges, with_answers
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

SHARE, HALF = 0.01, 0.5
BYTES = re.compile(r"[A-Za-z0-9+/=_-]{100,}")
CODED = re.compile(
    r"encod|base-?64|encrypt|cipher|hash|\bkey\b|token|sequence|protein|\bDNA\b|smiles|molecul|signature|compress|"
    r"binary|certificate|string|\bsvg\b|without spaces",
    re.IGNORECASE,
)
MEDIUM = re.compile(r"(?:\A|\n)[ \t]*(<(image|video|audio)>)[ \t]*(?=\n|\Z|\S)", re.IGNORECASE)
MARKUP = re.compile(r"</|/>")


@check(
    "DATA099",
    title="rows are text that can be read",
    severity="warning",
    methods=("sft", "reward", "dpo"),
)
def text_without_words(at: AtData) -> Iterator[Finding]:
    tokens = set(at.tokenizer.get_vocab())
    for source in with_answers(at.sources):
        read = read_exchanges(source)
        spaced = sum(" " in one.answered.strip() for one in read)
        coded = [one for one in read if BYTES.fullmatch(one.answered.strip()) and not CODED.search(one.asked)]
        seen = [
            one
            for one in read
            if (mark := MEDIUM.search(one.asked)) and mark[1] not in tokens and not MARKUP.search(one.asked)
        ]
        for wrong, shows, what in (
            (coded if spaced >= HALF * len(read) else [], "answered", "have an answer of encoded bytes"),
            (seen, "asked", "hold the mark of a picture or sound, which is no token of this tokenizer"),
        ):
            if len(wrong) > FEW and len(wrong) >= SHARE * len(read):
                yield Finding(
                    message=f"{len(wrong)} of {len(read)} rows of {source.label} that were looked at {what}.",
                    fix="Remove these rows.",
                    where=Where(file=source.label, row=wrong[0].row, key=source.key),
                    evidence=tuple(f"row {one.row}: {clip(getattr(one, shows), 80)}" for one in wrong[:3]),
                )


@text_without_words.fault
def bytes_were_taken_for_text(world: World) -> None:
    from base64 import b64encode

    for number, row in enumerate(world.rows[::4]):
        row["completion"] = b64encode(f"{number} {row['completion']}".encode() * 8).decode()


@text_without_words.fault
def rows_are_about_pictures(world: World) -> None:
    for row in world.rows[::4]:
        row["prompt"] = f"<image>\n{row['prompt']}"
