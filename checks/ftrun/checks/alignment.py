"""Where the texts of an example stand among the tokens of its row, and which of those tokens are trained.

Each token is spelled alone, without white space, and special tokens become one sign that no text holds. The
texts of the example are then looked up, in their order, in the spelled row. What lies between them is the
template's own. A token counts for a text only where it lies wholly inside it: one that straddles the boundary
of prompt and answer may be trained or not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftrun.checks.examples import Part, squeeze

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

SPECIAL = "\ue000"
BROKEN = "\ufffd"
LONGEST_CHARACTER = 8
"""Tokens that one character may be spread over; bytes of UTF-8 are at most 4, joined emoji decode singly."""

MOST_OCCURRENCES = 200

AUTHORS = ("text", "completion", "assistant")
"""Roles whose words templates leave as they are; what a tool says is often rendered anew as JSON."""


@dataclass(frozen=True)
class Reading:
    """What the labels of one row do to the texts of its example, in characters that are not white space."""

    leaked: int
    """Trained characters of texts that are no answers."""

    prompt: int
    """All characters of such texts."""

    hidden: int
    """Masked characters of answers."""

    answer: int
    """All characters of answers."""

    lost: bool
    """Whether an answer stands nowhere among the row's tokens."""


@dataclass(frozen=True)
class Speller:
    """The text of each token."""

    tokenizer: PreTrainedTokenizerBase
    known: Mapping[int, str | None]
    """None: the token holds a part of a character only."""

    def spell(self, ids: Sequence[int]) -> list[str]:
        """The text of each of `ids`; a character spread over several tokens belongs to the first of them."""
        spelled: list[str] = []
        pending: list[int] = []
        for id in ids:
            text = self.known[id]
            if text is not None:
                pending = []
                spelled.append(text)
                continue
            pending.append(id)
            spelled.append("")
            joined = self.tokenizer.decode(pending, clean_up_tokenization_spaces=False)
            if BROKEN not in joined or len(pending) == LONGEST_CHARACTER:
                spelled[-len(pending)] = squeeze(joined)
                pending = []
        return spelled


def make_speller(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int]) -> Speller:
    """A speller for these ids."""
    special = set(tokenizer.all_special_ids)
    known: dict[int, str | None] = {}
    for id in set(ids):
        text = SPECIAL if id in special else squeeze(_decode(tokenizer, id))
        known[id] = None if BROKEN in text else text
    return Speller(tokenizer, known)


def _decode(tokenizer: PreTrainedTokenizerBase, id: int) -> str:
    text: str = tokenizer.decode([id], clean_up_tokenization_spaces=False)
    return text


def read_labels(
    ids: Sequence[int], trained: NDArray[np.bool_], parts: Sequence[Part], speller: Speller
) -> Reading:
    """Look up the parts among the tokens of a row. `trained`: for each token whether its label is its id."""
    import numpy as np

    spelled = speller.spell(ids)
    text = "".join(spelled)
    lengths = np.array([len(one) for one in spelled], np.int64)
    ends = np.cumsum(lengths)
    inside = np.concatenate(([0], ends))
    taught = np.concatenate(([0], np.cumsum(lengths * trained)))

    def measure(start: int, end: int) -> tuple[int, int]:
        """Characters of the tokens wholly inside, and those of them that are trained."""
        first, last = np.searchsorted(ends - lengths, start), np.searchsorted(ends, end, "right")
        if last <= first:
            return 0, 0
        return int(inside[last] - inside[first]), int(taught[last] - taught[first])

    leaked = prompt = hidden = answer = cursor = 0
    lost = False
    for part in parts:
        place = _locate(text, part, cursor, measure, speller.tokenizer)
        if place is None:
            lost |= part.answer and part.role in AUTHORS and bool(squeeze(part.text))
            continue
        start, cursor = place
        total, share = measure(start, cursor)
        if part.answer:
            answer, hidden = answer + total, hidden + total - share
        else:
            prompt, leaked = prompt + total, leaked + share
    return Reading(leaked, prompt, hidden, answer, lost)


def _locate(
    text: str,
    part: Part,
    start: int,
    measure: Callable[[int, int], tuple[int, int]],
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[int, int] | None:
    """Where the part stands from `start` on: of several places, the one with the labels it should have.

    An answer is looked for in its first form that stands anywhere, what is none in all its forms: an earlier turn, of
    which the template leaves the reasoning out, may stand before an answer of the same words.
    """
    best: tuple[int, bool, int, int] | None = None
    for piece in _forms(part, tokenizer):
        # Templates that open an answer's reasoning themselves have its first tag in the prompt.
        opening = re.match(r"<\w+>", piece) if part.answer else None
        skipped = len(opening.group()) if opening and len(piece) > len(opening.group()) else 0
        at = text.find(piece, start)
        for _ in range(MOST_OCCURRENCES):
            if at < 0:
                break
            total, trained = measure(at + skipped, at + len(piece))
            wrong = total - trained if part.answer else trained
            found = (wrong, total == 0, at + skipped, at + len(piece))
            best = found if best is None else min(best, found)
            if best[:2] == (0, False):
                break
            at = text.find(piece, at + 1)
        if best is not None and (part.answer or best[0] == 0):
            break
    return None if best is None else best[2:]


def _forms(part: Part, tokenizer: PreTrainedTokenizerBase) -> Iterable[str]:
    """The forms that a part may have in its row: as it is, without reasoning, as the tokenizer spells it."""
    plain = squeeze(part.text)
    if not plain:
        return
    yield plain
    if "</think>" in plain:
        without = plain.rpartition("</think>")[2]
        if without:
            yield without
    ids: list[int] = tokenizer(part.text, add_special_tokens=False)["input_ids"]
    respelled = "".join(make_speller(tokenizer, ids).spell(ids))
    if respelled and respelled != plain:
        yield respelled
