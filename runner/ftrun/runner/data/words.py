"""Encoding by words: text is cut before spaces, where the tokenizer cuts it too, and each word is encoded once.

Tokenizers of language models cut text into pieces and encode each by itself, and most never let a space follow
another character in a piece. Their tokens for a text are then those of its words, one after the other, where a
word ends before each space that follows a character other than white space. A data set has far fewer words than
places where they stand, so remembering the tokens of a word is several times faster than encoding every row.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, chain, islice
from typing import Any, NamedTuple

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

MOST = 500_000
"""Words remembered at a time, in about 150 MB."""


class Cut(NamedTuple):
    """A text in its words, with the tokens of each."""

    words: list[str]
    ids: list[tuple[int, ...]]


def open_words(backend: Any, texts: Iterable[str]) -> Words | None:
    """An empty memory of words for a tokenizer's Rust backend; None where its pieces may hold a space inside.

    Special tokens that are in `texts` end a word too.
    """
    normalizers = _read(backend.normalizer, "normalizers")
    # A ByteLevel without an expression of its own cuts nothing.
    cuts = [one for one in _read(backend.pre_tokenizer, "pretokenizers") if one.get("use_regex", True)]
    by_pattern = _cuts_by_pattern(cuts) and all(one["type"] == "NFC" for one in normalizers)
    if not by_pattern and not (_writes_spaces(normalizers, cuts) and _keeps_spaces_first(backend)):
        return None
    if backend.encode_special_tokens or getattr(backend.model, "dropout", None):
        return None
    added = list(backend.get_added_tokens_decoder().values())
    if any(token.single_word or " " in token.content.lstrip() for token in added):
        return None
    # Without a pattern, the start of a text may be treated unlike what follows a special token.
    ends = [one.content for one in added if by_pattern and _is_cut_out(one, added)]
    present = [end for end in ends if any(end in text for text in texts)]
    return Words(backend, present, [one.content for one in added if one.rstrip], "" if by_pattern else SPACE)


def _is_cut_out(token: Any, added: Iterable[Any]) -> bool:
    """Whether a tokenizer cuts text at this token before all else, wherever it stands."""
    if token.normalized or token.lstrip or token.rstrip or any(map(str.isspace, token.content)):
        return False
    others = [other.content for other in added if other.content != token.content]
    first: str = token.content[0]
    return not any(other.startswith(token.content) or first in other[1:] for other in others)


def _read(component: Any, name: str) -> list[dict[str, Any]]:
    """The settings of a normalizer or pre-tokenizer, or of each in a sequence."""
    if component is None:
        return []
    # Components are pickled as the JSON that `tokenizer.json` holds; not all of it has attributes.
    settings = json.loads(component.__getstate__())
    parts: list[dict[str, Any]] = settings[name] if settings["type"] == "Sequence" else [settings]
    return parts


def _cuts_by_pattern(cuts: list[dict[str, Any]]) -> bool:
    if not cuts or any(one["type"] != "Digits" for one in cuts[:-1]):
        return False
    last = cuts[-1]
    if last["type"] == "ByteLevel":
        return True  # by GPT-2's pattern
    known = last["type"] == "Split" and last["pattern"].get("Regex") in PATTERNS
    return known and last["behavior"] in ("Isolated", "Removed")


def _writes_spaces(normalizers: list[dict[str, Any]], cuts: list[dict[str, Any]]) -> bool:
    """Whether a tokenizer writes a SPACE for each space, and at most cuts there."""
    if [one["type"] for one in cuts] == ["Metaspace"]:
        return not normalizers and cuts[0]["replacement"] == SPACE
    # Gemma writes them before it cuts at spaces, of which none are left then.
    replaces = [one.get("pattern") == {"String": " "} and one.get("content") == SPACE for one in normalizers]
    return replaces == [True] and all(one.get("pattern") == {"String": " "} for one in cuts)


def _keeps_spaces_first(backend: Any) -> bool:
    """Whether no token of a BPE has a SPACE after another character, so that no merge reaches across one."""
    model = backend.model
    if type(model).__name__ != "BPE" or model.ignore_merges:
        return False
    if model.continuing_subword_prefix or model.end_of_word_suffix:
        return False
    vocabulary = backend.get_vocab(with_added_tokens=False)
    return SPACE in vocabulary and all(SPACE not in token.lstrip(SPACE) for token in vocabulary)


class Unclean(LookupError):
    """A word ends with white space, or with a token that takes what follows: it may not end there."""


class Words(dict[str, tuple[int, ...]]):
    """The tokens of each word met so far; a new one is encoded when it is looked up."""

    def __init__(self, backend: Any, specials: Iterable[str], sticky: Iterable[str], reserved: str) -> None:
        super().__init__()
        self.backend = backend
        self.specials = tuple(specials)
        """Special tokens at which text is cut as well, since tokenizers do so before all else."""

        self.sticky = tuple(sticky)
        """Tokens that take the white space after them."""

        self.reserved = reserved
        """A character that stands for a space: a text that has it is not cut."""

        self.inside: dict[tuple[str, int], int | None] = {}
        """Of a word and a character in it, the token that holds the character."""

    def __missing__(self, word: str) -> tuple[int, ...]:
        if not word.endswith(END) and not self._is_clean(word):
            raise Unclean(word)
        text = word.removesuffix(END)
        ids = tuple(self.backend.encode(text, add_special_tokens=False).ids)
        if len(word) <= LONGEST:
            if len(self) >= MOST:
                self.clear()
            self[word] = ids
        return ids

    def _is_clean(self, word: str) -> bool:
        return word[-1:].strip() != "" and not word.endswith(self.sticky)

    def cut_all(self, texts: Iterable[str]) -> list[Cut]:
        """The words of each text, and the tokens of each: what is new in them is encoded at once."""
        split = [self._split(text) for text in texts]
        self._learn({word for words in split for word in words if word not in self})
        return [self._look_up(words) for words in split]

    def cut(self, text: str) -> Cut:
        """The words of a text, and the tokens of each."""
        return self._look_up(self._split(text))

    def _learn(self, words: Iterable[str]) -> None:
        """Encode the words of which `__missing__` would remember the tokens."""
        new = [one for one in words if len(one) <= LONGEST and (one.endswith(END) or self._is_clean(one))]
        if len(self) + len(new) > MOST:
            self.clear()
        texts = [word.removesuffix(END) for word in new]
        encodings = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        self.update((word, tuple(one.ids)) for word, one in zip(new, encodings, strict=True))

    def _look_up(self, words: list[str]) -> Cut:
        try:
            return Cut(words, list(map(self.__getitem__, words)))
        except Unclean:
            words = self._join(words)
            return Cut(words, list(map(self.__getitem__, words)))

    def _split(self, text: str) -> list[str]:
        if CUT in text or END in text or (self.reserved and self.reserved in text):
            return [text + END]
        for special in self.specials:
            text = text.replace(special, f"{END}{CUT}{special}{END}{CUT}")
        return f"{text}{END}".replace(" ", f"{CUT} ").split(CUT)

    def _join(self, words: Sequence[str]) -> list[str]:
        """The words of which none is unclean: such a one goes on to the end of the next."""
        joined = [words[0]]
        for word in words[1:]:
            if joined[-1].endswith(END) or self._is_clean(joined[-1]):
                joined.append(word)
            else:
                joined[-1] += word
        return joined

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without those that the tokenizer adds to every text."""
        return [*chain(*self.cut(text).ids)]

    def count_common(self, prompt: str, whole: Cut) -> int:
        """How many tokens a prompt by itself and the whole have in common from the start."""
        words = self._split(prompt)
        # Only the last word of a prompt may go on in the whole.
        known = len(words) - 1
        if words[:known] == whole.words[:known]:
            shared, rest = sum(map(len, whole.ids[:known])), self[words[-1]]
        else:
            known, shared, rest = 0, 0, tuple(self.encode(prompt))
        others = islice(chain.from_iterable(whole.ids[known:]), len(rest))
        return shared + count_common(rest, tuple(others))

    def locate(self, cut: Cut) -> Callable[[int], int | None]:
        """A function that gives the token that holds a character of the text; None where there is none."""
        starts = [0, *accumulate([len(word) - (word[-1:] == END) for word in cut.words])]
        tokens = [0, *accumulate(map(len, cut.ids))]

        def token_of(character: int) -> int | None:
            index = bisect_right(starts, character) - 1
            within = self._locate_within(cut.words[index], character - starts[index])
            return None if within is None else tokens[index] + within

        return token_of

    def _locate_within(self, word: str, character: int) -> int | None:
        key = word, character
        if key not in self.inside:
            if len(self.inside) >= MOST:
                self.inside.clear()
            encoding = self.backend.encode(word.removesuffix(END), add_special_tokens=False)
            self.inside[key] = encoding.char_to_token(character)
        return self.inside[key]


def count_common(ids: Sequence[int], others: Sequence[int]) -> int:
    """How many tokens two rows have in common from the start."""
    if others[: len(ids)] == ids:
        return len(ids)
    pairs = enumerate(zip(ids, others, strict=False))
    return next((i for i, (one, other) in pairs if one != other), min(len(ids), len(others)))
