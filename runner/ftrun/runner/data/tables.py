"""Tokenised rows as Arrow data sets, in the columns that each of the trainers reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ftrun.checks.rows import IGNORED, Rows
from ftrun.runner.data.cache import GrowingArray, fetch_arrays, is_small, make_in_memory
from ftrun.runner.data.tokens import starts_of

if TYPE_CHECKING:
    from datasets import Dataset


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

    def write(folder: Path | None) -> dict[str, GrowingArray]:
        ids = {name: GrowingArray(folder, name, np.int32) for name in choices}
        counts = {f"{name} counted": GrowingArray(folder, f"{name}_counted", np.int64) for name in choices}
        for _, block in rows.blocks():
            for name, choose in choices.items():
                chosen = choose(block)
                ids[name].append(block.ids[chosen])
                counts[f"{name} counted"].append(block.count(chosen).reshape(-1, 2).sum(1))
        return ids | counts

    arrays = make_in_memory(write) if is_small(len(rows)) else fetch_arrays(None, write)
    return {name: _as_lists(arrays[name], starts_of(arrays[f"{name} counted"])) for name in choices}


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
