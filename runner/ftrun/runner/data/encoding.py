"""The rows of a split become what trains: rendered, tokenised, cut, and none left that trains no token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

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
    truncation_mode: str | None,
) -> Rows:
    """Tokenise the rows at `origins` once each, truncate, and drop what would train no token.

    TRL drops fully masked rows only where it does not pack; they are dropped here in both cases, since a
    row without a label moves nothing but the token count. Prompts, which train none, stay. Where
    `truncation_mode` is None, rows longer than `max_length` are left out and none is cut. A pair stays or
    goes as a whole.
    """
    # One number for each origin: `unique` over numbers is far quicker than over pairs.
    keys = origins[:, 0].astype(np.int64) << 32 | origins[:, 1]
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    tokens = tokenise(_render_sources(origins[first], sources, tokenizer), tokenizer)
    sides = max(source.sides for source in sources)
    if sides > 1:
        tokens = _share_prompts(tokens)
    full = np.diff(tokens.starts).astype(np.int32)
    too_long = np.zeros(len(full), bool)
    if truncation_mode is not None:
        tokens = _truncate(tokens, max_length, truncation_mode)
    elif max_length is not None:
        too_long = full > max_length
    prompts = np.array([source.loss_on == "nothing" for source in sources])
    empty = (_trained_per_row(tokens) == 0) & ~prompts[origins[first][:, 0]]
    too_long, empty = (mask.reshape(-1, sides).any(1).repeat(sides) for mask in (too_long, empty))
    keep = ~(too_long | empty)[inverse]
    chosen = inverse[keep]
    picked = _pick(tokens, chosen)
    return Rows(
        ids=picked.ids,
        labels=picked.labels,
        starts=picked.starts,
        full_lengths=full[chosen],
        origins=origins[keep],
        sources=sources,
        dropped=origins[(empty & ~too_long)[inverse]],
        too_long=origins[too_long[inverse]],
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


def _share_prompts(tokens: Tokens) -> Tokens:
    """Let both sides of a pair begin where the earlier one does, as TRL's DPOTrainer has one prompt for both.

    They differ where a tokenizer joins the end of the prompt with one of the answers.
    """
    lengths = np.diff(tokens.starts)
    position = np.arange(len(tokens.ids)) - np.repeat(tokens.starts[:-1], lengths)
    prompts = lengths - _trained_per_row(tokens)  # what is trained of a side is its end
    shared = prompts.reshape(-1, 2).min(1).repeat(2)
    labels = np.where(position >= np.repeat(shared, lengths), tokens.ids, tokens.labels)
    return Tokens(tokens.ids, labels.astype(np.int32), tokens.starts)


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
    return _make_table(input_ids=_as_lists(rows.ids, rows.starts), labels=_as_lists(rows.labels, rows.starts))


def make_prompts(rows: Rows) -> Dataset:
    """A data set of `input_ids` alone, one row for each prompt."""
    return _make_table(input_ids=_as_lists(rows.ids, rows.starts))


def make_pairs(rows: Rows, **columns: Sequence[float]) -> Dataset:
    """A data set of `chosen_ids` and `rejected_ids`, each whole with its prompt, as TRL's RewardTrainer has it.

    `columns` are further ones, with a value for each pair.
    """
    return _make_table(chosen_ids=_side(rows, 0), rejected_ids=_side(rows, 1), **columns)


def make_divided_pairs(rows: Rows) -> Dataset:
    """A data set of `prompt_ids`, `chosen_ids` and `rejected_ids`, as TRL's DPOTrainer has it."""
    trained = rows.labels != IGNORED
    return _make_table(
        prompt_ids=_side(rows, 0, ~trained),
        chosen_ids=_side(rows, 0, trained),
        rejected_ids=_side(rows, 1, trained),
    )


def _side(rows: Rows, side: int, wanted: NDArray[np.bool_] | None = None) -> Any:
    """The wanted tokens of one side of every pair, all where nothing says which."""
    mine = np.repeat(np.arange(len(rows)) % 2 == side, rows.lengths)
    wanted = mine if wanted is None else mine & wanted
    total = np.concatenate(([0], np.cumsum(wanted, dtype=np.int64)))
    ends = total[rows.starts[1:]][side::2]
    return _as_lists(rows.ids[wanted], np.concatenate(([0], ends)))


def _as_lists(values: NDArray[np.int32], starts: NDArray[np.int64]) -> Any:
    """An Arrow array of lists. Plain lists count to 2^31 in all; the large ones are for what is longer."""
    import pyarrow as pa

    lists, counter = (pa.ListArray, np.int32) if starts[-1] < 2**31 else (pa.LargeListArray, np.int64)
    return lists.from_arrays(pa.array(starts.astype(counter)), pa.array(values))


def _make_table(**columns: Any) -> Dataset:
    import pyarrow as pa
    from datasets import Dataset

    return Dataset(pa.table(columns))
