"""A few rows that stand for all of them: the first of each source, the longest, the shortest, those cut most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftrun.checks.rows import IGNORED, Row, Rows
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CUT_MOST = 3
"""Rows that lose most tokens to `max_length`, of each split."""

SPREAD = "⁺"
"""Stands for a token that goes on with the character of the one before it."""

LONGEST_CHARACTER = 8
BROKEN = "\ufffd"
VISIBLE = str.maketrans({" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍"})


@dataclass(frozen=True)
class Sample:
    """A row that is shown, and why."""

    split: str
    """`train` or `eval`, and of a pair the side."""

    reasons: tuple[str, ...]
    row: Row

    @property
    def trained(self) -> int:
        """Tokens of the row that are trained."""
        return int((self.row.labels != IGNORED).sum())

    @property
    def heading(self) -> str:
        """Where the row is from, why it is shown and how long it is, in one line."""
        cut = f", cut from {self.row.full_length:,}" if self.row.truncated else ""
        counts = f"{len(self.row.ids):,} tokens{cut}, {self.trained:,} trained"
        return " · ".join((str(self.row.where), self.split, ", ".join(self.reasons), counts))


@dataclass(frozen=True)
class Token:
    """A token as it is shown."""

    text: str
    """With signs for white space and for characters without a shape."""

    trained: bool
    special: bool
    """Whether it is a token of its own in the tokenizer, such as the end of a turn, and no piece of text."""


def choose_samples(at: AtData, count: int) -> list[Sample]:
    """The first `count` rows of each source and split, the longest, the shortest and those cut most; both sides of
    pairs. A row that stands for several things is there once."""
    chosen = []
    for name, rows in (("train", at.train), ("eval", at.eval)):
        if rows is None or not len(rows):
            continue
        for number, reasons in _choose(rows, count).items():
            for side in range(rows.sides):
                split = name if rows.sides == 1 else f"{name} {('chosen', 'rejected')[side]}"
                chosen.append(Sample(split, tuple(reasons), rows[number * rows.sides + side]))
    return chosen


def _choose(rows: Rows, count: int) -> dict[int, list[str]]:
    """The numbers of rows, or of pairs, each with what it stands for."""
    sources = rows.origins[:: rows.sides, 0]
    full = rows.full_lengths.reshape(-1, rows.sides).sum(1)
    lost = full - rows.lengths.reshape(-1, rows.sides).sum(1)
    reasons: dict[int, list[str]] = {}
    for source in range(len(rows.sources)):
        for place, number in enumerate((sources == source).nonzero()[0][:count].tolist()):
            reasons.setdefault(number, []).append("first of its source" if place == 0 else "of the first")
    reasons.setdefault(int(full.argmax()), []).append("longest")
    reasons.setdefault(int(full.argmin()), []).append("shortest")
    for number in (-lost).argsort(kind="stable")[:CUT_MOST].tolist():
        if lost[number]:
            reasons.setdefault(number, []).append(f"loses {lost[number]:,} tokens")
    return reasons


def spell_row(row: Row, tokenizer: PreTrainedTokenizerBase) -> list[Token]:
    """Each token of a row: its text, whether it is trained, and whether it is one of the special ones."""
    special = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    ids: list[int] = row.ids.tolist()
    return [
        Token(text, label != IGNORED, id in special)
        for id, text, label in zip(ids, _spell(ids, tokenizer), row.labels.tolist(), strict=True)
    ]


def _spell(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """The text of each token; a character that is spread over several belongs to the first of them."""
    place = 0
    while place < len(ids):
        width, text = 1, _decode(ids[place : place + 1], tokenizer)
        while BROKEN in text and width < min(LONGEST_CHARACTER, len(ids) - place):
            width += 1
            text = _decode(ids[place : place + width], tokenizer)
        if BROKEN in text:  # no character comes of it: the token stands as it is
            width, text = 1, _decode(ids[place : place + 1], tokenizer)
        yield show_text(text)
        yield from (SPREAD for _ in range(width - 1))
        place += width


def _decode(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    text: str = tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
    piece = tokenizer.convert_ids_to_tokens(ids[0])
    # Decoded alone, SentencePiece's tokens lose the space that they begin with.
    is_spaced = isinstance(piece, str) and piece.startswith("▁") and not text.startswith(" ")
    return f" {text}" if is_spaced else text


def show_text(text: str) -> str:
    """Text on one line, its white space as signs, and what has no shape or steers a terminal by its number."""
    return "".join(one if one.isprintable() else f"⟨U+{ord(one):04X}⟩" for one in text.translate(VISIBLE))
