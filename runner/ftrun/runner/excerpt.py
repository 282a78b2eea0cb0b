"""A few short rows of a batch: enough to see that they can be learnt, at a small part of the cost of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ftrun.checks.rows import IGNORED
from ftrun.runner.exchange import Part, read_parts
from ftrun.runner.trial import SHORT, Batch

if TYPE_CHECKING:
    import torch

ROWS = 2
"""Rows, or pairs, of an excerpt."""


def make_excerpt(method: str, batch: Batch) -> Batch:
    """The first row or pair and the next one with another prompt and answer, of each SHORT tokens around the beginning
    of its answer; of one row of documents, which has no padding, as much from its beginning.

    What cannot be cut is returned as it is: pairs with the log-probabilities that the reference gave to whole answers.
    """
    if "ref_chosen_logps" in batch or "seq_lengths" in batch:
        return batch
    if "position_ids" in batch:
        return _cut_documents(batch)
    parts = read_parts(method, batch)
    pairs = len(parts) if method == "sft" else len(parts) // 2
    chosen = _choose(parts[:pairs])
    rows = [row + start for start in range(0, len(parts), pairs) for row in chosen]
    if any(parts[row].start == parts[row].end for row in rows):
        return batch
    begins = [max(0, parts[row].start - SHORT // 2) for row in rows]
    return {name: _cut(name, value, rows, begins) for name, value in batch.items()}


def _choose(parts: Sequence[Part]) -> list[int]:
    """The first row, and the next ones that are unlike it; others where there are too few."""
    first = parts[0]
    others = sorted(
        range(1, len(parts)),
        key=lambda row: parts[row].prompt == first.prompt or parts[row].answer == first.answer,
    )
    return [0, *others[: ROWS - 1]]


def _cut(name: str, value: Any, rows: Sequence[int], begins: Sequence[int]) -> Any:
    """SHORT columns of these rows of a table, with padding behind its end; of a list with a number for each row or
    pair, those of these."""
    if not hasattr(value, "dim") or value.dim() == 0:
        return value
    if value.dim() == 1:
        return value[[row for row in rows if row < len(value)]]
    import torch

    cut = torch.full((len(rows), SHORT), IGNORED if name == "labels" else 0, dtype=value.dtype)
    for place, (row, begin) in enumerate(zip(rows, begins, strict=True)):
        columns: torch.Tensor = value[row, begin : begin + SHORT]
        cut[place, : len(columns)] = columns
    return cut


def _cut_documents(batch: Batch) -> Batch:
    trained = (batch["labels"][0, 1:] != IGNORED).nonzero()
    first = int(trained[0]) if len(trained) else 0
    width = max(ROWS * SHORT, first + SHORT)
    return {
        name: value[:, :width] if hasattr(value, "dim") and value.dim() == 2 else value
        for name, value in batch.items()
    }
