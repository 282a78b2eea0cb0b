"""The rows of a split become what trains: rendered, tokenised, cut, and none left that trains no token."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ftrun.checks.examples import is_chat
from ftrun.checks.rows import IGNORED, LossOn, Rows, SourceRows
from ftrun.runner.data.cache import GrowingArray, fetch_arrays, fill_cache, is_small, make_in_memory
from ftrun.runner.data.key import make_key
from ftrun.runner.data.rendering import Rendered, Template, read_template, render
from ftrun.runner.data.splits import Origins
from ftrun.runner.data.storage import rows_folder
from ftrun.runner.data.tokens import Tokens, starts_of, tokenise
from ftrun.runner.ranks import count_ranks, share
from ftrun.schemas.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH = 1000
"""Rows rendered and encoded at a time; the tokenizer's own objects take about 100 bytes a token. It is even, so that no
pair is divided."""


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
    goes as a whole. Of many rows the tokens are in files, those of an earlier run where its cache has them.
    """
    inputs = origins, sources, tokenizer, max_length, truncation_mode
    make = partial(_encode, *inputs)
    if is_small(len(origins)):
        arrays = make_in_memory(make)
    else:
        key = None if rows_folder() is None else make_key(*inputs)
        if key is not None and count_ranks() > 1:
            share(partial(fill_cache, key, make))
        arrays = fetch_arrays(key, make)
    pairs = {name: arrays[name].reshape(-1, 2) for name in ("origins", "dropped", "too_long")}
    return Rows(sources=sources, **{**arrays, **pairs})


def _encode(
    origins: Origins,
    sources: tuple[SourceRows, ...],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
    truncation_mode: str | None,
    folder: Path | None,
) -> dict[str, GrowingArray]:
    """The arrays of `Rows` by their names, in files of the folder where there is one."""
    # One number for each origin: `unique` over numbers is far quicker than over pairs.
    keys = origins[:, 0].astype(np.int64) << 32 | origins[:, 1]
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    unique = origins[first]
    sides = max(source.sides for source in sources)
    tokens = GrowingArray(folder, "ids", np.int32), GrowingArray(folder, "labels", np.int32)
    batches = tokenise(_render_sources(unique, sources, tokenizer), tokenizer)
    full, lengths, trained = _append_tokens(
        tokens, map(_share_prompts, batches) if sides > 1 else batches, max_length, truncation_mode
    )
    too_long = np.zeros(len(full), bool)
    if truncation_mode is None and max_length is not None:
        too_long = _of_whole_pairs(full > max_length, sides)
    empty = _of_whole_pairs((trained == 0) & ~_is_prompt(unique, sources), sides) & ~too_long
    keep = ~(too_long | empty)[inverse]
    chosen = inverse[keep]
    ids, labels = _pick(tokens, lengths, chosen, folder)
    columns = {
        "starts": starts_of(lengths[chosen]),
        "full_lengths": full[chosen].astype(np.int32),
        "origins": origins[keep],
        "dropped": origins[empty[inverse]],
        "too_long": origins[too_long[inverse]],
    }
    return {"ids": ids, "labels": labels} | {
        name: _write_array(folder, name, values) for name, values in columns.items()
    }


def _append_tokens(
    tokens: tuple[GrowingArray, GrowingArray],
    batches: Iterable[Tokens],
    max_length: int | None,
    truncation_mode: str | None,
) -> NDArray[np.int64]:
    """Add the ids and labels of all batches, truncated, to `tokens`. Returns of each row its length as it was, its
    length now, and how many of its tokens train."""
    counts = [np.zeros((3, 0), np.int64)]
    for batch in batches:
        full = np.diff(batch.starts)
        if truncation_mode is not None:
            batch = _truncate(batch, max_length, truncation_mode)
        tokens[0].append(batch.ids)
        tokens[1].append(batch.labels)
        counts.append(np.stack((full, np.diff(batch.starts), _trained_per_row(batch))))
    return np.concatenate(counts, axis=1)


def _is_prompt(origins: Origins, sources: tuple[SourceRows, ...]) -> NDArray[np.bool_]:
    """Which rows are prompts, of which no token trains."""
    of_source = np.array([source.loss_on == "nothing" for source in sources])
    found: NDArray[np.bool_] = of_source[origins[:, 0]]
    return found


def _of_whole_pairs(rows: NDArray[np.bool_], sides: int) -> NDArray[np.bool_]:
    """The rows that are chosen, and with one side of a pair the other."""
    return rows.reshape(-1, sides).any(1).repeat(sides)


def _write_array(folder: Path | None, name: str, values: NDArray[Any]) -> GrowingArray:
    written = GrowingArray(folder, name, values.dtype.type)
    written.append(values)
    return written


def _render_sources(
    origins: Origins, sources: tuple[SourceRows, ...], tokenizer: PreTrainedTokenizerBase
) -> Iterator[list[Rendered]]:
    templates: dict[LossOn, Template | None] = {}
    for index, source in enumerate(sources):
        yield from _render_source(source, origins[origins[:, 0] == index, 1], templates, tokenizer)


def _render_source(
    source: SourceRows,
    chosen: NDArray[np.int32],
    templates: dict[LossOn, Template | None],
    tokenizer: PreTrainedTokenizerBase,
) -> Iterator[list[Rendered]]:
    """`templates` has those that were needed so far."""
    refused: list[str] = []
    for start in range(0, len(chosen), BATCH):
        batch = chosen[start : start + BATCH].tolist()
        examples = [source.examples[i] for i in batch]
        if source.loss_on not in templates and any(map(is_chat, examples)):
            templates[source.loss_on] = read_template(tokenizer, source.loss_on)
        rendered = render(examples, source.loss_on, templates.get(source.loss_on), tokenizer.eos_token)
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
    return Tokens(tokens.ids[keep], tokens.labels[keep], starts_of(np.minimum(lengths, max_length)))


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


def _pick(
    tokens: tuple[GrowingArray, GrowingArray],
    lengths: NDArray[np.int64],
    chosen: NDArray[np.int64],
    folder: Path | None,
) -> tuple[GrowingArray, GrowingArray]:
    """Ids and labels of the rows that are chosen, in that order, instead of those of all rows of these lengths."""
    if len(chosen) == len(lengths) and (chosen == np.arange(len(chosen))).all():
        return tokens
    starts = starts_of(lengths)
    picked = GrowingArray(folder, "picked_ids", np.int32), GrowingArray(folder, "picked_labels", np.int32)
    for source, target in zip(tokens, picked, strict=True):
        values = source.finish()
        for first in range(0, len(chosen), BATCH):
            rows = chosen[first : first + BATCH]
            ends = lengths[rows].cumsum()
            within = np.arange(ends[-1]) - np.repeat(ends - lengths[rows], lengths[rows])
            target.append(values[np.repeat(starts[rows], lengths[rows]) + within])
        source.remove()
    return picked
