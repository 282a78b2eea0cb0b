"""What batches hold, counted: of the rows of the data stage, and by the same rules of the batches that are fed.

A row's first token is never counted as trained: no model predicts it, and packing masks it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from operator import add
from typing import TYPE_CHECKING, Any

from ftrun.checks.rows import IGNORED

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Fed:
    """Counts of rows that were fed. Of pairs, each side is a row."""

    rows: int = 0
    taught: int = 0
    """Rows with a trained token."""

    trained: int = 0
    """Trained tokens."""

    ended: int = 0
    """Answers, which are trained tokens in a row, whose last token stops generation."""

    tokens: int = 0
    """Without padding."""

    mislabelled: int = 0
    """Trained tokens whose label is another token."""

    strange: int = 0
    """Rows that the data stage does not have."""

    again: int = 0
    """Rows that were fed in this epoch already."""

    def __add__(self, other: Fed) -> Fed:
        return Fed(*map(add, astuple(self), astuple(other)))


class Spread:
    """How a count is spread over the rows of a data set; what is kept of it does not grow with their number."""

    def __init__(self, counts: NDArray[np.int64]) -> None:
        """`counts` has the count of each row, of which there is at least one."""
        import numpy as np

        self.rows = len(counts)
        self._values, times = np.unique(counts, return_counts=True)
        self._rows = np.concatenate(([0], times.cumsum()))
        self._sums = np.concatenate(([0], (times * self._values).cumsum()))

    def least(self, rows: int) -> int:
        """What any so many rows have together at least, no row being taken again before all were."""
        rounds, rest = divmod(rows, int(self._rows[-1]))
        place = int(self._rows.searchsorted(rest, "right")) - 1
        part = self._sums[place]
        if rest > self._rows[place]:
            part += (rest - self._rows[place]) * self._values[place]
        return rounds * int(self._sums[-1]) + int(part)

    def most(self, rows: int) -> int:
        """What they have together at most."""
        rounds, rest = divmod(rows, int(self._rows[-1]))
        return (rounds + 1) * int(self._sums[-1]) - self.least(int(self._rows[-1]) - rest)


@dataclass(frozen=True)
class Spreads:
    """The counts of `Fed` over the rows of the data stage; what is trained is None where batches do not say it."""

    tokens: Spread
    taught: Spread | None
    trained: Spread | None
    ended: Spread | None


Part = tuple["NDArray[np.int32]", "NDArray[np.int32] | None", "NDArray[np.int64]"]
"""Rows in flat arrays, as `ftrun.checks.rows.Rows` has them: ids, labels, starts. Labels are None for rows that are
not told which of their tokens are trained."""


def spread_rows(parts: Iterable[Part], stop_ids: frozenset[int], shortest: int) -> Spreads:
    """The counts of the rows of all parts that have `shortest` tokens or more."""
    import numpy as np

    counted = [_count_rows(*part, stop_ids) for part in parts]
    lengths, *told = (
        None if column[0] is None else np.concatenate(column) for column in zip(*counted, strict=True)
    )
    assert lengths is not None
    chosen = lengths >= shortest
    trained, ended = (None if one is None else one[chosen] for one in told)
    if trained is None or ended is None:
        return Spreads(Spread(lengths[chosen]), None, None, None)
    return Spreads(
        Spread(lengths[chosen]), Spread((trained > 0).astype(np.int64)), Spread(trained), Spread(ended)
    )


def _count_rows(
    ids: NDArray[np.int32],
    labels: NDArray[np.int32] | None,
    starts: NDArray[np.int64],
    stop_ids: frozenset[int],
) -> tuple[NDArray[np.int64], NDArray[np.int64] | None, NDArray[np.int64] | None]:
    """Of each row its tokens, the trained ones, and the answers whose end stops generation."""
    import numpy as np

    lengths = np.diff(starts)
    if labels is None:
        return lengths, None, None

    def count(tokens: NDArray[np.bool_]) -> NDArray[np.int64]:
        total = np.concatenate(([0], tokens.cumsum(dtype=np.int64)))
        return total[starts[1:]] - total[starts[:-1]]

    trained = labels != IGNORED
    trained[starts[:-1][lengths > 0]] = False
    ends = np.flatnonzero(trained & ~np.concatenate((trained[1:], [False])))
    stopping = np.zeros(len(trained), bool)
    stopping[ends[np.isin(ids[ends], sorted(stop_ids))]] = True
    return lengths, count(trained), count(stopping)


@dataclass(frozen=True, eq=False)
class Segments:
    """The rows in a collated batch, each tensor of shape (1, tokens) where it is packed, else (rows, tokens)."""

    ids: torch.Tensor
    labels: torch.Tensor | None
    there: torch.Tensor
    """What is no padding."""

    begins: torch.Tensor
    """First tokens of rows."""

    trained: torch.Tensor

    @property
    def rows(self) -> torch.Tensor:
        """For each token, flat, the number of its row in the batch, from 0."""
        return (self.begins.flatten().cumsum(0) - 1).clamp(min=0)

    @property
    def positions(self) -> torch.Tensor:
        """For each token, flat, its place in its row, from 0; nothing sensible for padding."""
        there = self.there.flatten().long()
        before = there.cumsum(0) - there
        return before - before.where(self.begins.flatten(), 0).cummax(0).values


def find_segments(batch: Any) -> Segments:
    """The rows of a batch. In one without labels nothing counts as trained. In a packed one, rows of a single token are
    not found: padding looks like them."""
    import torch

    ids = batch["input_ids"]
    if "position_ids" in batch:
        positions = batch["position_ids"]
        following = torch.nn.functional.pad(positions[:, 1:], (0, 1))
        begins = (positions == 0) & (following == 1)
        there = begins | (positions > 0)
    else:
        there = (
            batch["attention_mask"] > 0
            if "attention_mask" in batch
            else torch.ones_like(ids, dtype=torch.bool)
        )
        begins = torch.zeros_like(there)
        begins[:, 0] = True
    trained = torch.zeros_like(begins)
    first = begins if "position_ids" in batch else there & (there.cumsum(1) == 1)
    if "labels" in batch:
        trained = (batch["labels"] != IGNORED) & there & ~first
    elif "completion_mask" in batch:
        trained = (batch["completion_mask"] > 0) & there & ~first
    return Segments(ids, batch.get("labels"), there, begins, trained)


def count_batch(segments: Segments, stops: torch.Tensor) -> torch.Tensor:
    """The counts of `Fed` in a batch, but for the rows that the data stage does not have or that were fed already: a
    tensor of shape (6,) where the batch is; nothing waits for it. `stops` is a tensor of the ids that stop generation.
    """
    import torch

    ids, begins, trained = segments.ids, segments.begins, segments.trained
    ends = trained & ~torch.nn.functional.pad(trained[:, 1:], (0, 1))
    stopping = ends & (ids[..., None] == stops).any(-1)
    wrong = torch.zeros_like(trained) if segments.labels is None else trained & (segments.labels != ids)
    # A row is taught where a trained token is the first of its row: where as many were trained when the row began.
    before = trained.flatten().cumsum(0) - trained.flatten().long()
    at_begin = torch.where(begins.flatten(), before, 0).cummax(0).values
    taught = trained.flatten() & (before == at_begin)
    return torch.stack([one.sum() for one in (begins, taught, trained, stopping, segments.there, wrong)])
