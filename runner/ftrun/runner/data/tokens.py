"""Rendered rows become tokens and labels: batches through the tokenizer's Rust backend, masks in NumPy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ftrun.checks.examples import spread
from ftrun.checks.rows import IGNORED
from ftrun.runner.data.boundary import find_shortcut
from ftrun.runner.data.rendering import Rendered

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase

COMPARED = 4
"""Rows of each batch whose tokens are compared with what the tokenizer itself says."""


@dataclass(frozen=True)
class Tokens:
    """Rows in flat arrays: row i is `ids[starts[i]:starts[i + 1]]`, and its labels are at the same places."""

    ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    starts: NDArray[np.int64]


class Encoded(NamedTuple):
    """The ids of a row, and the parts of it that are trained, from one token to before another."""

    ids: list[int]
    trained: list[tuple[int, int]]


def tokenise(batches: Iterable[Sequence[Rendered]], tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """Encode rows and label them: a token's id where it is trained, −100 where it is not."""
    ids, labels, lengths = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
    for batch in batches:
        encoded = _encode(batch, tokenizer)
        lengths.append(np.fromiter((len(row.ids) for row in encoded), np.int64, len(encoded)))
        ids.append(np.fromiter(chain.from_iterable(row.ids for row in encoded), np.int32, lengths[-1].sum()))
        labels.append(_label(ids[-1], lengths[-1], encoded))
    starts = np.concatenate([np.zeros(1, np.int64), *lengths]).cumsum()
    return Tokens(np.concatenate(ids), np.concatenate(labels), starts)


def _label(ids: NDArray[np.int32], lengths: NDArray[np.int64], rows: Sequence[Encoded]) -> NDArray[np.int32]:
    labels = np.full(len(ids), IGNORED, np.int32)
    for start, row in zip(lengths.cumsum() - lengths, rows, strict=True):
        for first, last in row.trained:
            labels[start + first : start + last] = ids[start + first : start + last]
    return labels


def _encode(rows: Sequence[Rendered], tokenizer: PreTrainedTokenizerBase) -> list[Encoded]:
    if not tokenizer.is_fast or not _agree(rows, tokenizer):
        return [_encode_slow(row, tokenizer) for row in rows]
    encoded: dict[int, Encoded] = {}
    for special in {row.special_tokens for row in rows}:
        chosen = [i for i, row in enumerate(rows) if row.special_tokens == special]
        fast = _encode_fast([rows[i] for i in chosen], tokenizer.backend_tokenizer, special)
        encoded |= zip(chosen, fast, strict=True)
    return [encoded[i] for i in range(len(rows))]


def _agree(rows: Sequence[Rendered], tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the Rust backend says what the tokenizer says, whose Python side may change it.

    The calls also leave the backend without truncation and padding.
    """
    return all(
        tokenizer(row.text, add_special_tokens=row.special_tokens)["input_ids"]
        == tokenizer.backend_tokenizer.encode(row.text, add_special_tokens=row.special_tokens).ids
        for row in (rows[i] for i in spread(len(rows), COMPARED))
    )


def _encode_fast(rows: Sequence[Rendered], backend: Any, special: bool) -> Iterator[Encoded]:
    pairs = any(row.prompt is not None for row in rows)
    shortcut = find_shortcut(backend, special) if pairs else None
    offsets = shortcut is not None or any(row.spans for row in rows)
    encode = backend.encode_batch if offsets else backend.encode_batch_fast
    with _whole_offsets(backend):
        encodings = encode([row.text for row in rows], add_special_tokens=special)
    ids = [encoding.ids for encoding in encodings]
    found = {
        i: shortcut.find(row.prompt, row.text, encodings[i]) if shortcut else None
        for i, row in enumerate(rows)
        if row.prompt is not None
    }
    unsure = [i for i, first in found.items() if first is None]
    prompts = backend.encode_batch_fast([rows[i].prompt for i in unsure], add_special_tokens=special)
    found |= {i: count_common(prompt.ids, ids[i]) for i, prompt in zip(unsure, prompts, strict=True)}
    for i, row in enumerate(rows):
        if row.spans is not None:
            yield Encoded(ids[i], [_tokens_of(span, encodings[i]) for span in row.spans])
        else:
            yield Encoded(ids[i], [(found.get(i) or 0, len(ids[i]))])


@contextmanager
def _whole_offsets(backend: Any) -> Iterator[None]:
    """Let offsets cover the white space that a token holds, which some post-processors leave out of them."""
    post = backend.post_processor
    parts = [] if post is None else list(post) if type(post).__name__ == "Sequence" else [post]
    trimming = [one for one in parts if getattr(one, "trim_offsets", False)]
    for one in trimming:
        one.trim_offsets = False
    try:
        yield
    finally:
        for one in trimming:
            one.trim_offsets = True


def _tokens_of(span: tuple[int, int], encoding: Encoding) -> tuple[int, int]:
    """The tokens that hold characters of a span, from the first to before the one after the last.

    So does transformers' `return_assistant_tokens_mask`, except where a span ends on a character that the
    tokenizer drops: there it marks the rest of the row.
    """
    tokens = (encoding.char_to_token(i) for i in range(*span))
    first = next((token for token in tokens if token is not None), 0)
    tokens = (encoding.char_to_token(i) for i in reversed(range(*span)))
    last = next((token for token in tokens if token is not None), first - 1)
    return first, last + 1


def count_common(ids: Sequence[int], others: Sequence[int]) -> int:
    """How many tokens two rows have in common from the start."""
    if others[: len(ids)] == ids:
        return len(ids)
    pairs = enumerate(zip(ids, others, strict=False))
    return next((i for i, (one, other) in pairs if one != other), min(len(ids), len(others)))


def _encode_slow(row: Rendered, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """For tokenizers without a Rust backend, or whose Python side changes what the backend says."""

    def encode(text: str) -> list[int]:
        encoded: list[int] = tokenizer(text, add_special_tokens=row.special_tokens)["input_ids"]
        return encoded

    ids = encode(row.text)
    if row.prompt is not None:
        return Encoded(ids, [(count_common(encode(row.prompt), ids), len(ids))])
    if row.spans is None:
        return Encoded(ids, [(0, len(ids))])
    # Without offsets, a turn's tokens are those by which its end lengthens the text before it.
    bounds = [tuple(count_common(encode(row.text[:end]), ids) for end in span) for span in row.spans]
    return Encoded(ids, [(first, last) for first, last in bounds])
