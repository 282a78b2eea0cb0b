"""Splits: which rows train and which evaluate, how often each is seen, and what became of every row read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ftrun.checks.rows import Rows, SourceCount, SourceRows
from ftrun.schemas.errors import DataError

Origins = NDArray[np.int32]


@dataclass(frozen=True)
class Split:
    """The origins of the rows of a split, and what was done to choose them, per source."""

    name: Literal["train", "eval"]
    sources: tuple[SourceRows, ...]
    origins: Origins
    """With both sides of a pair one after the other."""

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
        bad = [(source.label, row) for source in train for row in source.bad]
        if bad:  # otherwise the unreadable rows are told with all that is known of them
            label, first = bad[0]
            raise DataError(
                f"{label}: row {first.row} cannot be read: {first.reason}; of {len(origins) + len(bad)} rows "
                f"{len(origins)} can be read, and data.eval.fraction needs two to divide"
            )
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
    rows = tuple(len(one.examples) // one.sides for one in sources)
    return tuple(count + lost for count, lost in zip(rows, bad, strict=True)), bad


def _all_origins(sources: Sequence[SourceRows]) -> Origins:
    """Of each row of the files, its first example: that of a pair stands for both its sides."""
    parts = [
        np.stack(
            [np.full(len(one.examples) // one.sides, index), np.arange(0, len(one.examples), one.sides)], 1
        )
        for index, one in enumerate(sources)
    ]
    return np.concatenate(parts).astype(np.int32)


def _with_sides(origins: Origins, sources: Sequence[SourceRows]) -> Origins:
    """Each origin followed by those of the other sides of its row."""
    sides = max(one.sides for one in sources)
    whole = origins.repeat(sides, axis=0)
    whole[:, 1] += np.tile(np.arange(sides, dtype=np.int32), len(origins))
    return whole


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
    both = _with_sides(np.concatenate(kept), sources)
    return Split(name, sources, both, read, unreadable, held_out, tuple(unused), tuple(repeated))


def count_splits(*splits: tuple[Rows | None, Split | None]) -> tuple[SourceCount, ...]:
    """What became of the rows of each source in each split that there is."""
    return tuple(
        count
        for rows, split in splits
        if rows is not None and split is not None
        for count in count_rows(rows, split)
    )


def count_rows(rows: Rows, split: Split) -> tuple[SourceCount, ...]:
    """What became of the rows of each source in this split."""
    counts = []
    sides = rows.sides
    cut = (rows.full_lengths > rows.lengths).reshape(-1, sides).any(1).repeat(sides)
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
                fully_masked=int((rows.dropped[:, 0] == index).sum()) // sides,
                too_long=int((rows.too_long[:, 0] == index).sum()) // sides,
                kept=int(own.sum()) // sides,
                truncated=int(cut[own].sum()) // sides,
                tokens=int(rows.lengths[own].sum()),
                trained_tokens=int(rows.trained[own].sum()),
            )
        )
    return tuple(counts)
