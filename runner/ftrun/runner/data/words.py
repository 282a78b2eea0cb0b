"""Encoding by words: text is cut before spaces, where the tokenizer cuts it too, and each word is encoded once.

Tokenizers of language models cut text into pieces and encode each by itself, and most never let a space follow
another character in a piece. Their tokens for a text are then those of its words, one after the other, where a
word ends before each space that follows a character other than white space. A data set has far fewer words than
places where they stand, so remembering the tokens of a word is several times faster than encoding every row.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain
from typing import Any

GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
START = r"[^\r\n\p{L}\p{N}]?"
PATTERNS = (
    GPT_2,
    # GPT-4 and Llama 3; Qwen 2 to 3; Qwen 3.5
    rf"{ENGLISH}|{START}\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{TAIL}",
    rf"{ENGLISH}|{START}\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{TAIL}",
    rf"{ENGLISH}|{START}[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{TAIL}",
    # GPT-4o, gpt-oss and Llama 4; Mistral Nemo
    rf"{START}{UPPER}*{LOWER}+{ENGLISH}?|{START}{UPPER}+{LOWER}*{ENGLISH}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{TAIL}",
    rf"{START}{UPPER}*{LOWER}+|{START}{UPPER}+{LOWER}*|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{TAIL}",
)
"""Regular expressions that cut text into pieces, in none of which a space follows another character."""

SPACE = "▁"
"""What SentencePiece writes for a space."""

CUT, END = "\0", "\1"
"""Marks put into text: before a piece, and after the last piece before a special token or the end."""

LONGEST = 64
"""Characters of a word that is remembered; what is longer hardly comes twice."""

MOST = 1_000_000
"""Words remembered at a time, in about 200 MB."""


class Unclean(LookupError):
    """A word ends with white space, which might belong to the next."""


class Words(dict[str, list[int]]):
    """The tokens of each word met so far; a new one is encoded when it is looked up."""

    def __init__(self, backend: Any, specials: Iterable[str], sticky: Iterable[str], reserved: str) -> None:
        super().__init__()
        self.backend = backend
        self.specials = tuple(specials)
        """Special tokens at which text is cut as well, since tokenizers do so before all else."""

        self.sticky = tuple(sticky)
        """Tokens that take the white space after them."""

        self.reserved = (CUT, END, *reserved)
        """Characters of which a text that is cut has none."""

        self.inside: dict[tuple[str, int], int | None] = {}
        """Of a word and a character in it, the token that holds the character."""

    def __missing__(self, word: str) -> list[int]:
        if not word.endswith(END) and not self._is_clean(word):
            raise Unclean(word)
        text = word.removesuffix(END)
        ids: list[int] = self.backend.encode(text, add_special_tokens=False).ids
        if len(self) >= MOST:
            self.clear()
        if len(word) <= LONGEST:
            self[word] = ids
        return ids

    def _is_clean(self, word: str) -> bool:
        return bool(word) and not word[-1].isspace() and not word.endswith(self.sticky)

    def cut(self, text: str) -> tuple[list[str], list[list[int]]]:
        """The words of a text, in which END marks the last ones, and the tokens of each."""
        if any(character in text for character in self.reserved):
            return [text + END], [self[text + END]]
        for special in self.specials:
            text = text.replace(special, f"{END}{CUT}{special}{END}{CUT}")
        words = f"{text}{END}".replace(" ", f"{CUT} ").split(CUT)
        try:
            return words, list(map(self.__getitem__, words))
        except Unclean:
            words = self._join(words)
            return words, list(map(self.__getitem__, words))

    def _join(self, words: Sequence[str]) -> list[str]:
        joined = [words[0]]
        for word in words[1:]:
            if joined[-1].endswith(END) or self._is_clean(joined[-1]):
                joined.append(word)
            else:
                joined[-1] += word
        return joined

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without those that the tokenizer adds to every text."""
        return list(chain.from_iterable(self.cut(text)[1]))
