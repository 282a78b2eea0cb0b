"""The rows of a split become what trains: rendered, tokenised, cut, and none left that trains no token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ftrun.checks.examples import is_chat
from ftrun.checks.rows import IGNORED, LossOn, Rows, SourceRows
from ftrun.runner.data.rendering import Rendered, Template, read_template, render
from ftrun.runner.data.splits import Origins
from ftrun.runner.data.tokens import Tokens, tokenise
from ftrun.schemas.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

BATCH = 1000
"""Rows rendered and encoded at a time; the tokenizer's own objects take about 100 bytes a token."""


def encode_split(
    origins: Origins,
    sources: tuple[SourceRows, ...],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None,
    truncation_mode: str,
) -> Rows:
    """Tokenise the rows at `origins` once each, truncate, and drop what would train no token.

    TRL drops fully masked rows only where it does not pack; they are dropped here in both cases, since a
    row without a label moves nothing but the token count.
    """
    # One number for each origin: `unique` over numbers is far quicker than over pairs.
    keys = origins[:, 0].astype(np.int64) << 32 | origins[:, 1]
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    tokens = tokenise(_render_sources(origins[first], sources, tokenizer), tokenizer)
    full = np.diff(tokens.starts).astype(np.int32)
    tokens = _truncate(tokens, max_length, truncation_mode)
    trained = _trained_per_row(tokens)
    keep = trained[inverse] > 0
    chosen = inverse[keep]
    picked = _pick(tokens, chosen)
    return Rows(
        ids=picked.ids,
        labels=picked.labels,
        starts=picked.starts,
        full_lengths=full[chosen],
        origins=origins[keep],
        sources=sources,
        dropped=origins[~keep],
    )


def _render_sources(
    origins: Origins, sources: tuple[SourceRows, ...], tokenizer: PreTrainedTokenizerBase
) -> Iterator[list[Rendered]]:
    templates: dict[LossOn, Template | None] = {}
    for index, source in enumerate(sources):
        chosen = origins[origins[:, 0] == index, 1].tolist()
        has_chats = any(is_chat(source.examples[i]) for i in chosen)
        if has_chats and source.loss_on not in templates:
            templates[source.loss_on] = read_template(tokenizer, source.loss_on)
        yield from _render_source(source, chosen, templates.get(source.loss_on), tokenizer.eos_token)


def _render_source(
    source: SourceRows, chosen: list[int], template: Template | None, eos_token: str | None
) -> Iterator[list[Rendered]]:
    refused: list[str] = []
    for start in range(0, len(chosen), BATCH):
        batch = chosen[start : start + BATCH]
        rendered = render([source.examples[i] for i in batch], source.loss_on, template, eos_token)
        refused += [
            f"row {source.numbers[i]}: {row.problem}"
            for i, row in zip(batch, rendered, strict=True)
            if row.problem
        ]
        yield rendered
    if refused:
        raise DataError(
            f"{source.label}: {len(refused)} of {len(chosen)} rows cannot be rendered. {'; '.join(refused[:3])}"
        )


def _truncate(tokens: Tokens, max_length: int | None, mode: str) -> Tokens:
    lengths = np.diff(tokens.starts)
    if max_length is None or not (lengths > max_length).any():
        return tokens
    position = np.arange(len(tokens.ids)) - np.repeat(tokens.starts[:-1], lengths)
    cut = np.repeat(lengths - max_length, lengths)
    keep = position < max_length if mode == "keep_start" else position >= cut
    starts = np.zeros_like(tokens.starts)
    np.cumsum(np.minimum(lengths, max_length), out=starts[1:])
    return Tokens(tokens.ids[keep], tokens.labels[keep], starts)


def _trained_per_row(tokens: Tokens) -> NDArray[np.int64]:
    total = np.concatenate(([0], np.cumsum(tokens.labels != IGNORED, dtype=np.int64)))
    return total[tokens.starts[1:]] - total[tokens.starts[:-1]]


def _pick(tokens: Tokens, chosen: NDArray[np.int64]) -> Tokens:
    if len(chosen) == len(tokens.starts) - 1 and (chosen == np.arange(len(chosen))).all():
        return tokens
    lengths = np.diff(tokens.starts)[chosen]
    starts = np.zeros(len(chosen) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    within = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)
    index = np.repeat(tokens.starts[:-1][chosen], lengths) + within
    return Tokens(tokens.ids[index], tokens.labels[index], starts)


def make_dataset(rows: Rows) -> Dataset:
    """An Arrow data set of `input_ids` and `labels` over the same memory: nothing is copied."""
    import pyarrow as pa
    from datasets import Dataset

    # Arrow's plain lists count to 2^31 in all; the large ones are for what is longer.
    small = rows.starts[-1] < 2**31
    lists, counter = (pa.ListArray, np.int32) if small else (pa.LargeListArray, np.int64)
    starts = pa.array(rows.starts.astype(counter))
    return Dataset(
        pa.table(
            {
                "input_ids": lists.from_arrays(starts, pa.array(rows.ids)),
                "labels": lists.from_arrays(starts, pa.array(rows.labels)),
            }
        )
    )
