"""Rendered rows become tokens and labels: one pass of the fast tokenizer over batches, masks in NumPy.

TRL encodes prompt and whole of each row and takes their common prefix. Encoding the whole alone and looking
up the token at the boundary gives the same split wherever a token begins exactly there; the few rows where
a token straddles it, and tokenizers whose offsets leave white space out, go the long way round.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ftrun.checks.rows import IGNORED
from ftrun.runner.data.rendering import Rendered

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase

BATCH = 1000
"""Rows encoded at a time; the tokenizer's own objects are heavy, about 100 bytes a token."""


@dataclass(frozen=True)
class Tokens:
    """Rows in flat arrays: row i is `ids[starts[i]:starts[i + 1]]`, and its labels are at the same places."""

    ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    starts: NDArray[np.int64]


def tokenise(rows: Sequence[Rendered], tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """Encode rows and label them: a token's id where it is trained, −100 where it is not."""
    backend = _fast_backend(rows, tokenizer)
    ids: list[NDArray[np.int32]] = []
    trained: list[NDArray[np.bool_]] = []
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        encoded = (
            _encode_slow(batch, tokenizer) if backend is None else _encode_fast(batch, backend, tokenizer)
        )
        for row_ids, row_trained in encoded:
            ids.append(row_ids)
            trained.append(row_trained)
    starts = np.zeros(len(ids) + 1, np.int64)
    np.cumsum([len(row) for row in ids], out=starts[1:])
    flat = np.concatenate(ids) if ids else np.zeros(0, np.int32)
    mask = np.concatenate(trained) if trained else np.zeros(0, np.bool_)
    return Tokens(flat, np.where(mask, flat, np.int32(IGNORED)), starts)


def _fast_backend(rows: Sequence[Rendered], tokenizer: PreTrainedTokenizerBase) -> Any | None:
    """The Rust tokenizer, where it says exactly what `tokenizer(text)` says on the first rows."""
    if not tokenizer.is_fast:
        return None
    backend = tokenizer.backend_tokenizer
    for row in rows[:8]:
        expected = tokenizer(row.text, add_special_tokens=row.special_tokens)["input_ids"]
        if backend.encode(row.text, add_special_tokens=row.special_tokens).ids != expected:
            return None
    # A call of the tokenizer leaves the backend without truncation and padding.
    return backend


Encoded = tuple[NDArray[np.int32], NDArray[np.bool_]]


def _encode_fast(
    rows: Sequence[Rendered], backend: Any, tokenizer: PreTrainedTokenizerBase
) -> Iterator[Encoded]:
    encodings: list[Encoding | None] = [None] * len(rows)
    trims = _trims_offsets(backend)
    for special in {row.special_tokens for row in rows}:
        chosen = [i for i, row in enumerate(rows) if row.special_tokens == special]
        texts = [rows[i].text for i in chosen]
        for i, encoding in zip(chosen, backend.encode_batch(texts, add_special_tokens=special), strict=True):
            encodings[i] = encoding
    for row, encoding in zip(rows, encodings, strict=True):
        assert encoding is not None
        ids = np.array(encoding.ids, np.int32)
        trained = np.ones(len(ids), np.bool_)
        if row.prompt is not None:
            first = _first_of_completion(row, encoding, trims)
            if first is None:
                first = _common_prefix(_encode_one(row.prompt, row, tokenizer), encoding.ids)
            trained[:first] = False
        elif row.spans is not None:
            trained = _mark_spans(row.spans, encoding, len(ids))
        yield ids, trained


def _trims_offsets(backend: Any) -> bool:
    """Whether offsets leave out the white space that a token holds, as GPT-2's and Llama 3's do."""
    encoding = backend.encode("a b", add_special_tokens=False)
    return bool(encoding.offsets) and encoding.char_to_token(1) is None


def _first_of_completion(row: Rendered, encoding: Encoding, trims: bool) -> int | None:
    """Index of the first token of the completion; None where offsets alone cannot say it."""
    prompt = row.prompt or ""
    if not row.text.startswith(prompt) or len(row.text) == len(prompt):
        return None
    boundary = len(prompt)
    if trims and (row.text[boundary].isspace() or (boundary > 0 and row.text[boundary - 1].isspace())):
        return None
    token = encoding.char_to_token(boundary)
    if token is None or encoding.token_to_chars(token)[0] < boundary:
        return None
    return token


def _mark_spans(spans: Sequence[tuple[int, int]], encoding: Encoding, length: int) -> NDArray[np.bool_]:
    """Mark the tokens of each span, as transformers' `return_assistant_tokens_mask` does."""
    trained = np.zeros(length, np.bool_)
    for start, end in spans:
        first, last = encoding.char_to_token(start), encoding.char_to_token(end - 1)
        if first is None:
            break
        trained[first : length if last is None else last + 1] = True
    return trained


def _encode_one(text: str, row: Rendered, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=row.special_tokens)["input_ids"]
    return ids


def _common_prefix(ids: Sequence[int], others: Sequence[int]) -> int:
    for index, (one, other) in enumerate(zip(ids, others, strict=False)):
        if one != other:
            return index
    return min(len(ids), len(others))


def _encode_slow(rows: Sequence[Rendered], tokenizer: PreTrainedTokenizerBase) -> Iterator[Encoded]:
    """For tokenizers without a Rust backend, or whose Python side changes what the backend says."""
    for row in rows:
        ids = _encode_one(row.text, row, tokenizer)
        trained = np.ones(len(ids), np.bool_)
        if row.prompt is not None:
            trained[: _common_prefix(_encode_one(row.prompt, row, tokenizer), ids)] = False
        elif row.spans is not None:
            # Without offsets, a turn's tokens are those by which its end lengthens the text before it.
            trained[:] = False
            for start, end in row.spans:
                before = _common_prefix(_encode_one(row.text[:start], row, tokenizer), ids)
                trained[before : _common_prefix(_encode_one(row.text[:end], row, tokenizer), ids)] = True
        yield np.array(ids, np.int32), trained
