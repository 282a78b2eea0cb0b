"""Rendered rows become tokens and labels, by the fastest way that says what the tokenizer says.

TRL encodes the prompt alone and the whole, and a completion begins where the two part ways; so it is here,
with the prompts in batches, or as words that are known by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ftrun.checks.examples import spread
from ftrun.checks.rows import IGNORED
from ftrun.runner.data.rendering import Rendered
from ftrun.runner.data.words import Words, count_common, open_words

if TYPE_CHECKING:
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
    """The ids of a row, and the parts of it that are trained, each from a token to before another."""

    ids: list[int]
    trained: list[tuple[int, int]]


Way = Callable[[Sequence[Rendered]], list[Encoded]]


def tokenise(batches: Iterable[Sequence[Rendered]], tokenizer: PreTrainedTokenizerBase) -> Iterator[Tokens]:
    """Encode each batch of rows and label them: a token's id where it is trained, −100 where it is not."""
    with whole_offsets(tokenizer.backend_tokenizer) if tokenizer.is_fast else nullcontext():
        words: Words | None = None
        for number, batch in enumerate(batches):
            if number == 0 and tokenizer.is_fast:
                words = open_words(tokenizer.backend_tokenizer, [row.text for row in batch[:32]])
            rows = _encode(batch, tokenizer, words)
            lengths = np.fromiter((len(row.ids) for row in rows), np.int64, len(rows))
            ids = np.fromiter(chain.from_iterable(row.ids for row in rows), np.int32)
            yield Tokens(ids, _label(ids, lengths, rows), starts_of(lengths))


def starts_of(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each row starts in a flat array of rows of these lengths, and behind them its end."""
    return np.concatenate((np.zeros(1, np.int64), lengths.cumsum()))


def _label(ids: NDArray[np.int32], lengths: NDArray[np.int64], rows: Sequence[Encoded]) -> NDArray[np.int32]:
    labels = np.full(len(ids), IGNORED, np.int32)
    for start, row in zip((lengths.cumsum() - lengths).tolist(), rows, strict=True):
        for first, last in row.trained:
            labels[start + first : start + last] = ids[start + first : start + last]
    return labels


def _encode(
    rows: Sequence[Rendered], tokenizer: PreTrainedTokenizerBase, words: Words | None
) -> list[Encoded]:
    """Each faster way is kept to where it agrees with the tokenizer on rows from all over the batch."""
    compared = {
        int(i): tokenizer(rows[i].text, add_special_tokens=rows[i].special_tokens)["input_ids"]
        for i in spread(len(rows), COMPARED)
    }
    ways: list[Way] = []
    if words is not None:
        ways.append(lambda rows: encode_words(rows, words))
    if tokenizer.is_fast:
        # The tokenizer, just called, left its backend without truncation and padding.
        ways.append(lambda rows: encode_whole(rows, tokenizer.backend_tokenizer))
    for way in ways:
        encoded = way(rows)
        if all(encoded[i].ids == ids for i, ids in compared.items()):
            return encoded
    return [_encode_slow(row, tokenizer) for row in rows]


def encode_words(rows: Sequence[Rendered], words: Words) -> list[Encoded]:
    """Rows by their words, each of which is encoded once."""
    before, after = _read_frame(words.backend)
    encoded = []
    for row, cut in zip(rows, words.cut_all(row.text for row in rows), strict=True):
        ids = [*chain.from_iterable(cut.ids)]
        if row.special_tokens:
            ids = [*before, *ids, *after]
        trained = [(0, len(ids))]
        if row.prompt is not None and row.special_tokens and after:
            trained = [(count_common([*before, *words.encode(row.prompt), *after], ids), len(ids))]
        elif row.prompt is not None:
            first = len(before) if row.special_tokens else 0
            trained = [(first + words.count_common(row.prompt, cut), len(ids))]
        elif row.spans is not None:
            token_of = words.locate(cut)
            trained = [_tokens_of(span, token_of) for span in row.spans]
        encoded.append(Encoded(ids, trained))
    return encoded


def _read_frame(backend: Any) -> tuple[list[int], list[int]]:
    """The tokens that the post-processor puts before and after every text."""
    probe = backend.encode("a", add_special_tokens=True)
    own = [i for i, is_added in enumerate(probe.special_tokens_mask) if not is_added] or [len(probe.ids)]
    return probe.ids[: own[0]], probe.ids[own[-1] + 1 :]


def encode_whole(rows: Sequence[Rendered], backend: Any) -> list[Encoded]:
    """Rows in batches, and the prompts of those that have one in batches too."""
    encoded: dict[int, Encoded] = {}
    for special in {row.special_tokens for row in rows}:
        chosen = {i: row for i, row in enumerate(rows) if row.special_tokens == special}
        prompts = {i: row.prompt for i, row in chosen.items() if row.prompt is not None}
        # The quicker call gives no offsets, which only spans need.
        encode = (
            backend.encode_batch if any(row.spans for row in chosen.values()) else backend.encode_batch_fast
        )
        wholes = encode([row.text for row in chosen.values()], add_special_tokens=special)
        heads = backend.encode_batch_fast(list(prompts.values()), add_special_tokens=special)
        heads_of = dict(zip(prompts, heads, strict=True))
        for (i, row), whole in zip(chosen.items(), wholes, strict=True):
            ids = whole.ids
            trained = [(0, len(ids))]
            if i in heads_of:
                trained = [(count_common(heads_of[i].ids, ids), len(ids))]
            elif row.spans is not None:
                trained = [_tokens_of(span, whole.char_to_token) for span in row.spans]
            encoded[i] = Encoded(ids, trained)
    return [encoded[i] for i in range(len(rows))]


def _encode_slow(row: Rendered, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """For tokenizers without a Rust backend, or whose Python side changes what the backend says."""

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=row.special_tokens)["input_ids"]
        return ids

    ids = encode(row.text)
    if row.prompt is not None:
        return Encoded(ids, [(count_common(encode(row.prompt), ids), len(ids))])
    if row.spans is None:
        return Encoded(ids, [(0, len(ids))])
    # Without offsets, a turn's tokens are those by which its end lengthens the text before it.
    ends = [[count_common(encode(row.text[:end]), ids) for end in span] for span in row.spans]
    return Encoded(ids, [(first, last) for first, last in ends])


def _tokens_of(span: tuple[int, int], token_of: Callable[[int], int | None]) -> tuple[int, int]:
    """The tokens that hold a span's first to last character, from one to before another.

    So does transformers' `return_assistant_tokens_mask`, except where a span begins or ends with a character
    that the tokenizer drops: there it leaves out the rest of the turns, or marks the rest of the row.
    """
    held = (token_of(character) for character in range(*span))
    first = next((token for token in held if token is not None), 0)
    held = (token_of(character) for character in reversed(range(*span)))
    last = next((token for token in held if token is not None), first - 1)
    return first, last + 1


@contextmanager
def whole_offsets(backend: Any) -> Iterator[None]:
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
