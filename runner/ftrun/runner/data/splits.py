"""Splits: which rows train and which evaluate, how often each is seen, and the tokens that they become."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ftrun.checks.rows import IGNORED, LossOn, Rows, SourceCount, SourceRows
from ftrun.runner.data.rendering import Rendered, Template, read_template, render
from ftrun.runner.data.tokens import Tokens, tokenise
from ftrun.schemas.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

Origins = NDArray[np.int32]


@dataclass(frozen=True)
class Split:
    """The origins of the rows of a split, and what was done to choose them, per source."""

    name: Literal["train", "eval"]
    sources: tuple[SourceRows, ...]
    origins: Origins
    read: tuple[int, ...]
    unreadable: tuple[int, ...]
    held_out: tuple[int, ...]
    unused: tuple[int, ...]
    repeated: tuple[int, ...]


def split_rows(
    train: tuple[SourceRows, ...],
    weights: Sequence[float],
    eval: tuple[SourceRows, ...],
    eval_weights: Sequence[float],
    fraction: float | None,
    seed: int,
) -> tuple[Split, Split | None]:
    """Divide the rows into those that train and those that evaluate.

    `fraction` of the training rows are held out by a seeded choice, at least one row on each side, before
    weights repeat any; else evaluation has the rows of its own sources.
    """
    origins = _all_origins(train)
    none = (0,) * len(train)
    if fraction is None:
        split = _weigh("train", train, origins, *_count_read(train), none, weights, seed)
        if not eval:
            return split, None
        nothing = (0,) * len(eval)
        return split, _weigh(
            "eval", eval, _all_origins(eval), *_count_read(eval), nothing, eval_weights, seed
        )
    if len(origins) < 2:
        raise DataError("data.eval.fraction needs at least two rows to divide")
    count = min(max(1, round(fraction * len(origins))), len(origins) - 1)
    order = np.random.default_rng(seed).permutation(len(origins))
    held = origins[np.sort(order[:count])]
    held_out = tuple(int((held[:, 0] == index).sum()) for index in range(len(train)))
    kept = origins[np.sort(order[count:])]
    ones = (1.0,) * len(train)
    return (
        _weigh("train", train, kept, *_count_read(train), held_out, weights, seed),
        _weigh("eval", train, held, held_out, none, none, ones, seed),
    )


def _count_read(sources: Sequence[SourceRows]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Rows read and rows unreadable of each source."""
    bad = tuple(len(one.bad) for one in sources)
    return tuple(len(one.examples) + count for one, count in zip(sources, bad, strict=True)), bad


def _all_origins(sources: Sequence[SourceRows]) -> Origins:
    parts = [
        np.stack([np.full(len(one.examples), index), np.arange(len(one.examples))], 1)
        for index, one in enumerate(sources)
    ]
    return np.concatenate(parts).astype(np.int32)


def _weigh(
    name: Literal["train", "eval"],
    sources: tuple[SourceRows, ...],
    origins: Origins,
    read: tuple[int, ...],
    unreadable: tuple[int, ...],
    held_out: tuple[int, ...],
    weights: Sequence[float],
    seed: int,
) -> Split:
    """Repeat the rows of each source as often as its weight says, and a seeded part of them once more."""
    kept: list[Origins] = []
    unused: list[int] = []
    repeated: list[int] = []
    for index, weight in enumerate(weights):
        rows = origins[origins[:, 0] == index]
        whole = math.floor(weight)
        extra = round((weight - whole) * len(rows))
        chosen = np.random.default_rng([seed, index]).permutation(len(rows))[:extra]
        kept += [rows] * whole + [rows[np.sort(chosen)]]
        unused.append(len(rows) - extra if whole == 0 else 0)
        repeated.append((whole - 1) * len(rows) + extra if whole else 0)
    return Split(
        name, sources, np.concatenate(kept), read, unreadable, held_out, tuple(unused), tuple(repeated)
    )


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
    unique, inverse = np.unique(origins, axis=0, return_inverse=True)
    tokens = _encode_sources(unique, sources, tokenizer)
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


def _encode_sources(
    origins: Origins, sources: tuple[SourceRows, ...], tokenizer: PreTrainedTokenizerBase
) -> Tokens:
    rendered: list[Rendered] = []
    templates: dict[LossOn, Template | None] = {}
    for index, source in enumerate(sources):
        chosen = origins[origins[:, 0] == index, 1]
        if not any(is_chat(source.examples[i]) for i in chosen):
            template = None
        else:
            if source.loss_on not in templates:
                templates[source.loss_on] = read_template(tokenizer, source.loss_on)
            template = templates[source.loss_on]
        rendered += _render_source(source, chosen, template, tokenizer.eos_token)
    return tokenise(rendered, tokenizer)


def _render_source(
    source: SourceRows, chosen: NDArray[np.int32], template: Template | None, eos_token: str | None
) -> list[Rendered]:
    rendered: list[Rendered] = []
    refused: list[str] = []
    for i in chosen:
        try:
            rendered.append(render(source.examples[i], source.loss_on, template, eos_token))
        except DataError as error:
            refused.append(f"row {source.numbers[i]}: {error}")
    if refused:
        raise DataError(
            f"{source.label}: {len(refused)} of {len(chosen)} rows cannot be rendered. {'; '.join(refused[:3])}"
        )
    return rendered


def is_chat(example: Mapping[str, Any]) -> bool:
    """Whether an example is rendered by a chat template."""
    return "messages" in example or isinstance(example.get("prompt"), list)


def _truncate(tokens: Tokens, max_length: int | None, mode: str) -> Tokens:
    lengths = np.diff(tokens.starts)
    if max_length is None or not (lengths > max_length).any():
        return tokens
    position = np.arange(len(tokens.ids)) - np.repeat(tokens.starts[:-1], lengths)
    if mode == "keep_start":
        keep = position < max_length
    else:
        keep = position >= np.repeat(lengths - max_length, lengths)
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


def count_rows(rows: Rows, split: Split) -> tuple[SourceCount, ...]:
    """What became of the rows of each source in this split."""
    counts = []
    for index, source in enumerate(split.sources):
        own = rows.origins[:, 0] == index
        counts.append(
            SourceCount(
                label=source.label,
                split=split.name,
                read=split.read[index],
                unreadable=split.unreadable[index],
                held_out=split.held_out[index],
                unused=split.unused[index],
                repeated=split.repeated[index],
                fully_masked=int((rows.dropped[:, 0] == index).sum()),
                kept=int(own.sum()),
                truncated=int((rows.full_lengths > rows.lengths)[own].sum()),
                tokens=int(rows.lengths[own].sum()),
                trained_tokens=int(rows.trained[own].sum()),
            )
        )
    return tuple(counts)


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
