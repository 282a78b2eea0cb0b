"""Text was decoded as another encoding than the one that it was written in.

Symptom: the model writes `Ã©` for é and `â€™` for an apostrophe, or � where letters were.
Cause: UTF-8 was read as Latin-1 or Windows-1252 by an export, a scraper or a table, or bytes that could not be read
were replaced; or the byte order mark of a file was read as a part of its text.
Fix: read the source again as UTF-8; text that was only read wrongly can be mended:
`text.encode("cp1252").decode("utf-8")`.
Prevention: name the encoding wherever a file is opened.
Source: told are texts that become shorter and are valid UTF-8 when they are encoded as Latin-1 or Windows-1252, which
text that was read rightly is not but by accident; the replacement character U+FFFD; a byte order mark at the beginning
(U+FEFF), and characters that mean nothing in text (U+0000 to U+0008, U+000E to U+001A). One text in a hundred, of plain
text three: of 10,389 rows of Alpaca, GSM8K and judged pairs one holds such a character, of 300 documents from the web
three. A prompt that asks for the repair of such text is to hold it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.examples import clip, parts_of, spread
from ftrun.checks.finding import Finding
from ftrun.checks.rows import SourceRows
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

SAMPLE, LENGTH = 512, 2000
ENOUGH, ENOUGH_OF_TEXT, LEAST = 0.01, 0.03, 2
MARKS = re.compile(r"\A\ufeff|[\x00-\x08\x0e-\x1a]")


WANTED = re.compile(r"mojibake|encod|decod|unicode|utf-?8|garbled|repair|restore", re.IGNORECASE)


@check("DATA047", title="text is what was written", severity="warning")
def text_decoded_wrongly(at: AtData) -> Iterator[Finding]:
    for source in at.sources:
        chosen = spread(len(source.examples), SAMPLE).tolist()
        found = [(i, text) for i in chosen if (text := _wrong_text(source, i))]
        share = ENOUGH_OF_TEXT if source.format == "text" else ENOUGH
        if len(found) < max(LEAST, share * len(chosen)):
            continue
        number, text = found[0]
        yield Finding(
            message=f"{len(found)} of {len(chosen)} rows of {source.label} that were looked at hold text that was "
            "decoded wrongly.",
            fix="Read the source again as UTF-8.",
            where=Where(file=source.label, row=source.numbers[number], key=source.key),
            evidence=(f"row {source.numbers[number]}: {clip(text, 80)}",),
        )


def _wrong_text(source: SourceRows, number: int) -> str:
    """A text of an example that was decoded wrongly; nothing where there is none."""
    for part in parts_of(source.examples[number], source.loss_on):
        text = part.text[:LENGTH]
        if not part.answer and source.loss_on != "all" and WANTED.search(text):
            continue
        if MARKS.search(text):
            return text
        if not text.isascii() and ("\ufffd" in text or _is_utf8_read_otherwise(text)):
            return text
    return ""


def _is_utf8_read_otherwise(text: str) -> bool:
    for encoding in ("cp1252", "latin-1"):
        try:
            mended = text.encode(encoding).decode("utf-8")
        except UnicodeError:  # the text holds what that encoding does not, or is no UTF-8 in it
            continue
        if len(mended) < len(text):
            return True
    return False


@text_decoded_wrongly.fault
def utf8_was_read_as_latin1(world: World) -> None:
    for row in world.rows[::4]:
        row["completion"] = f"Voilà, très sûr: {row['completion']}".encode().decode("latin-1")


@text_decoded_wrongly.fault
def letters_were_replaced(world: World) -> None:
    for row in world.rows[::4]:
        row["completion"] = f"Voil\ufffd: {row['completion']}"


@text_decoded_wrongly.fault
def a_byte_order_mark_is_left(world: World) -> None:
    for row in world.rows:
        row["prompt"] = f"\ufeff{row['prompt']}"
