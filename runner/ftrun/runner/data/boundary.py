"""Where a completion begins among the tokens of prompt and completion, told without encoding the prompt again.

TRL encodes the prompt alone and the whole, and the completion begins where the two part ways. Encoding the
whole alone is enough where the end of the prompt cannot be read differently for what follows it:

`word`   The tokenizer cuts text into words by looking forward, and encodes each word by itself. A word that
         begins with the completion shows that the words before it end within the prompt, and are cut alike
         without it. The one thing that such a cut looks at beyond a word is whether white space is followed
         by more: white space at the end of the prompt must be a single character, or within one word.
`token`  The tokenizer cuts nowhere or by single characters, and merges pairs of tokens (BPE). A token that begins
         with the completion shows that no pair was merged across, so the merges before it are the prompt's.

For every other tokenizer, and wherever a row does not show this, the prompt is encoded.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from unicodedata import combining, normalize

if TYPE_CHECKING:
    from tokenizers import Encoding

BY_CHARACTER = ("BertPreTokenizer", "Digits", "Metaspace", "Punctuation", "Whitespace", "WhitespaceSplit")
"""Pre-tokenizers that cut between two characters for what these two are."""

COMPOSING = ("BertNormalizer", "NFC", "NFD", "NFKC", "NFKD")
"""Normalizers that change a character for the marks that follow it."""

LOCAL = (*COMPOSING, "Lowercase", "Prepend", "StripAccents")
"""Normalizers that change a character for nothing else that follows it."""

FIRST_MARK = "\u0300"
"""Unicode combines no character before this one with the one before it."""

LOOKS_AROUND = re.compile(r"\(\?(?!:|i:)|(?<!\[)\^|\$|\\[bBAzZG1-9]|[+*?}]\+")
"""In a regular expression: lookaround, anchors, back-references and possessive quantifiers."""


@dataclass(frozen=True)
class Shortcut:
    """What shows where the completion begins."""

    by: Literal["word", "token"]
    composes: bool
    """Whether a mark at the start of the completion changes the last character of the prompt."""

    def find(self, prompt: str, text: str, encoding: Encoding) -> int | None:
        """Index of the first token of the completion in the encoding of `text`; None where it is not shown."""
        boundary = len(prompt)
        if not 0 < boundary < len(text) or not text.startswith(prompt):
            return None
        if self.composes and _combine(text[boundary - 1], text[boundary]):
            return None
        token = encoding.char_to_token(boundary)
        chars = None if token is None else encoding.token_to_chars(token)
        if token is None or chars is None or chars[0] != boundary:
            return None
        if self.by == "word" and not _begins_word(token, prompt, encoding):
            return None
        return token


def _combine(last: str, first: str) -> bool:
    if first < FIRST_MARK:
        return False
    apart = [normalize("NFKC", one) for one in (last, first)]
    return combining(apart[1][0]) != 0 or normalize("NFKC", last + first) != "".join(apart)


def _begins_word(token: int, prompt: str, encoding: Encoding) -> bool:
    if token > 0 and encoding.token_to_word(token) == encoding.token_to_word(token - 1):
        return False
    space = len(prompt) - len(prompt.rstrip())
    if space < 2:
        return True
    word = encoding.char_to_word(len(prompt) - 1)
    return word is not None and encoding.char_to_word(len(prompt) - space) == word


def find_shortcut(backend: Any, special_tokens: bool) -> Shortcut | None:
    """The shortcut that holds for a tokenizer's Rust backend; None where the prompt has to be encoded."""
    normalizers = _parts(backend.normalizer, "normalizers")
    if not all(_is_local(one) for one in normalizers):
        return None
    if any(token.single_word for token in backend.get_added_tokens_decoder().values()):
        return None
    # A token that the tokenizer puts after the prompt could equal the first of the completion.
    if special_tokens and backend.encode("a").special_tokens_mask[-1]:
        return None
    composes = any(one["type"] in COMPOSING for one in normalizers)
    cuts = [one for one in _parts(backend.pre_tokenizer, "pretokenizers") if _cuts(one)]
    if all(_cuts_by_character(one) for one in cuts):
        return Shortcut("token" if _merges_pairs(backend.model) else "word", composes)
    if all(_cuts_by_character(one) for one in cuts[:-1]) and _looks_forward(cuts[-1]):
        return Shortcut("word", composes)
    return None


def _parts(component: Any, name: str) -> list[dict[str, Any]]:
    """The settings of a normalizer or pre-tokenizer, or of each in a sequence."""
    if component is None:
        return []
    # Components are pickled as the JSON that `tokenizer.json` holds; not all of it has attributes.
    settings = json.loads(component.__getstate__())
    parts: list[dict[str, Any]] = settings[name] if settings["type"] == "Sequence" else [settings]
    return parts


def _is_local(normalizer: dict[str, Any]) -> bool:
    return normalizer["type"] in LOCAL or (
        normalizer["type"] == "Replace" and _is_character(normalizer["pattern"])
    )


def _is_character(pattern: dict[str, str]) -> bool:
    return len(pattern.get("String", "")) == 1


def _cuts(pre_tokenizer: dict[str, Any]) -> bool:
    return pre_tokenizer["type"] != "ByteLevel" or bool(pre_tokenizer["use_regex"])


def _cuts_by_character(pre_tokenizer: dict[str, Any]) -> bool:
    if pre_tokenizer["type"] == "Split":
        return _is_character(pre_tokenizer["pattern"])
    return pre_tokenizer["type"] in BY_CHARACTER


def _looks_forward(pre_tokenizer: dict[str, Any]) -> bool:
    r"""Whether it cuts by a regular expression that looks at nothing outside a word but `(?!\S)`."""
    if pre_tokenizer["type"] == "ByteLevel":
        return True
    if pre_tokenizer["type"] != "Split" or pre_tokenizer["behavior"] not in ("Isolated", "Removed"):
        return False
    pattern = pre_tokenizer["pattern"].get("Regex")
    return pattern is not None and not LOOKS_AROUND.search(pattern.replace(r"(?!\S)", ""))


def _merges_pairs(model: Any) -> bool:
    if type(model).__name__ != "BPE":
        return False
    plain = model.continuing_subword_prefix is None and model.end_of_word_suffix is None
    return plain and not model.ignore_merges and not model.dropout
