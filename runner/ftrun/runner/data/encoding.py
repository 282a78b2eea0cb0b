"""The rows of a split become what trains: rendered, tokenised, cut, and none left that trains no token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ftrun.checks.examples import is_chat
from ftrun.checks.rows import IGNORED, LossOn, Rows, SourceRows
from ftrun.runner.data.cache import Arrays, Growing, fetch_arrays, fill_cache
from ftrun.runner.data.key import make_key
from ftrun.runner.data.rendering import Rendered, Template, read_template, render
from ftrun.runner.data.splits import Origins
from ftrun.runner.data.storage import rows_folder
from ftrun.runner.data.tokens import Tokens, tokenise
from ftrun.runner.ranks import count_ranks, share
from ftrun.schemas.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

BATCH = 1000
"""Rows rendered and encoded at a time; the tokenizer's own objects take about 100 bytes a token. It is even, so that no
pair is divided."""

FEW = 2000
"""Rows from which on tokens go into files, and into the cache: fewer are tokenised in a fraction of a second."""


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
    what = origins, sources, tokenizer, max_length, truncation_mode
    make = partial(_encode, *what)
    if len(origins) < FEW:
        arrays = _make(make)
    else:
        key = None if rows_folder() is None else make_key(*what)
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
) -> dict[str, Growing]:
    """The arrays of `Rows` by their names, in files of the folder where there is one."""
    # One number for each origin: `unique` over numbers is far quicker than over pairs.
    keys = origins[:, 0].astype(np.int64) << 32 | origins[:, 1]
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    unique = origins[first]
    sides = max(source.sides for source in sources)
    tokens = Growing(folder, "ids", np.int32), Growing(folder, "labels", np.int32)
    counts = [np.zeros((3, 0), np.int64)]
    for batch in tokenise(_render_sources(unique, sources, tokenizer), tokenizer):
        if sides > 1:
            batch = _share_prompts(batch)
        full = np.diff(batch.starts)
        if truncation_mode is not None:
            batch = _truncate(batch, max_length, truncation_mode)
        tokens[0].append(batch.ids)
        tokens[1].append(batch.labels)
        counts.append(np.stack((full, np.diff(batch.starts), _trained_per_row(batch))))
    full, lengths, trained = np.concatenate(counts, axis=1)
    too_long = np.zeros(len(full), bool)
    if truncation_mode is None and max_length is not None:
        too_long = full > max_length
    prompts = np.array([source.loss_on == "nothing" for source in sources])
    empty = (trained == 0) & ~prompts[unique[:, 0]]
    too_long, empty = (mask.reshape(-1, sides).any(1).repeat(sides) for mask in (too_long, empty))
    keep = ~(too_long | empty)[inverse]
    chosen = inverse[keep]
    ids, labels = _pick(tokens, lengths, chosen, folder)
    columns = {
        "starts": _starts_of(lengths[chosen]),
        "full_lengths": full[chosen].astype(np.int32),
        "origins": origins[keep],
        "dropped": origins[(empty & ~too_long)[inverse]],
        "too_long": origins[too_long[inverse]],
    }
    return {"ids": ids, "labels": labels} | {
        name: _write(folder, name, values) for name, values in columns.items()
    }


def _make(make: Callable[[None], dict[str, Growing]]) -> Arrays:
    """The arrays in memory."""
    return {name: one.finish() for name, one in make(None).items()}


def _write(folder: Path | None, name: str, values: NDArray[Any]) -> Growing:
    column = Growing(folder, name, values.dtype.type)
    column.append(values)
    return column


def _starts_of(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate((np.zeros(1, np.int64), lengths.cumsum()))


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


def _pick(
    tokens: tuple[Growing, Growing],
    lengths: NDArray[np.int64],
    chosen: NDArray[np.int64],
    folder: Path | None,
) -> tuple[Growing, Growing]:
    """Ids and labels of the rows that are chosen, in that order, instead of those of all rows of these lengths."""
    if len(chosen) == len(lengths) and (chosen == np.arange(len(chosen))).all():
        return tokens
    starts = _starts_of(lengths)
    picked = Growing(folder, "picked_ids", np.int32), Growing(folder, "picked_labels", np.int32)
    for source, target in zip(tokens, picked, strict=True):
        values = source.finish()
        for first in range(0, len(chosen), BATCH):
            rows = chosen[first : first + BATCH]
            ends = lengths[rows].cumsum()
            within = np.arange(ends[-1]) - np.repeat(ends - lengths[rows], lengths[rows])
            target.append(values[np.repeat(starts[rows], lengths[rows]) + within])
        source.remove()
    return picked


def make_dataset(rows: Rows) -> Dataset:
    """An Arrow data set of `input_ids` and `labels` over the same memory: nothing is copied."""
    return _make_table(input_ids=_as_lists(rows.ids, rows.starts), labels=_as_lists(rows.labels, rows.starts))


def make_prompts(rows: Rows) -> Dataset:
    """A data set of `input_ids` alone, one row for each prompt."""
    return _make_table(input_ids=_as_lists(rows.ids, rows.starts))


def make_pairs(rows: Rows, **columns: NDArray[np.float64]) -> Dataset:
    """A data set of `chosen_ids` and `rejected_ids`, each whole with its prompt, as TRL's RewardTrainer has it.

    `columns` are further ones, with a value for each pair.
    """
    sides = _take(rows, {"chosen_ids": partial(_is_side, side=0), "rejected_ids": partial(_is_side, side=1)})
    return _make_table(**sides, **columns)


def make_divided_pairs(rows: Rows) -> Dataset:
    """A data set of `prompt_ids`, `chosen_ids` and `rejected_ids`, as TRL's DPOTrainer has it."""

    def answer(block: Rows, side: int) -> NDArray[np.bool_]:
        wanted: NDArray[np.bool_] = _is_side(block, side) & (block.labels != IGNORED)
        return wanted

    def prompt(block: Rows) -> NDArray[np.bool_]:
        wanted: NDArray[np.bool_] = _is_side(block, 0) & (block.labels == IGNORED)
        return wanted

    chosen, rejected = partial(answer, side=0), partial(answer, side=1)
    return _make_table(**_take(rows, {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}))


def _is_side(block: Rows, side: int) -> NDArray[np.bool_]:
    """Which tokens are of this side of their pair."""
    return np.repeat(np.arange(len(block)) % 2 == side, block.lengths)


def _take(rows: Rows, choices: Mapping[str, Callable[[Rows], NDArray[np.bool_]]]) -> dict[str, Any]:
    """Arrow lists of the tokens that each choice picks out of pairs, one list for each pair."""

    def write(folder: Path | None) -> dict[str, Growing]:
        ids = {name: Growing(folder, name, np.int32) for name in choices}
        counts = {f"{name} counted": Growing(folder, f"{name}_counted", np.int64) for name in choices}
        for _, block in rows.blocks():
            for name, choose in choices.items():
                chosen = choose(block)
                ids[name].append(block.ids[chosen])
                counts[f"{name} counted"].append(block.count(chosen).reshape(-1, 2).sum(1))
        return ids | counts

    arrays = _make(write) if len(rows) < FEW else fetch_arrays(None, write)
    return {name: _as_lists(arrays[name], _starts_of(arrays[f"{name} counted"])) for name in choices}


def _as_lists(values: NDArray[np.int32], starts: NDArray[np.int64]) -> Any:
    """An Arrow array of lists. Plain lists count to 2^31 in all; the large ones are for what is longer."""
    import pyarrow as pa

    lists, counter = (pa.ListArray, np.int32) if starts[-1] < 2**31 else (pa.LargeListArray, np.int64)
    return lists.from_arrays(pa.array(starts.astype(counter)), pa.array(values))


def _make_table(**columns: Any) -> Dataset:
    import pyarrow as pa
    from datasets import Dataset
    from datasets.fingerprint import generate_random_fingerprint

    # Without one, the whole table would be pickled to be digested.
    return Dataset(pa.table(columns), fingerprint=generate_random_fingerprint())
