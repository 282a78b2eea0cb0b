"""Rows of like length in a micro-batch: less padding, and the same rows in every update.

The rows of an update are drawn as ever. Before they are cut into micro-batches they are sorted by their length, the
longest first, so that memory is at its highest early. Gradients add up over the update, so that its sum is the same but
for rounding, wherever a row weighs the same in every micro-batch (`ftrun.runner.tuning.rules` says where).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import Trainer

Lengths = NDArray[np.int64]

SORTED = "rows of an update"
"""Names the choice to sort them by length before they are divided into micro-batches."""

OVERHEAD = {"cpu": 64, "gpu": 4096}
"""What a micro-batch costs besides its tokens, in tokens. Measured on a CPU with Llamas of 0.7 and 11 million
parameters: 10 ms, at 0.13 ms a token, for the smaller, and fewer tokens for the larger. For a GPU it is a guess on the
safe side: with fewer a model of a billion parameters hardly fills one."""

SAMPLE = 20_000
"""Rows whose lengths are looked at: padding is known to within a percent."""


@dataclass(frozen=True)
class Division:
    """How a process divides its rows of an update."""

    rows: int
    """Of a micro-batch."""

    accumulation: int
    places: int
    """Tokens and padding that the rows looked at come to, sorted …"""

    drawn: int
    """… and as they were drawn and written."""


def read_lengths(dataset: Dataset) -> Lengths:
    """Tokens of each row: of a pair, of its longer side with the prompt."""

    def column(name: str) -> Lengths:
        chunks = dataset.with_format("arrow")[name][:].chunks
        return np.concatenate(
            [np.diff(chunk.offsets.to_numpy()).astype(np.int64) for chunk in chunks]
            or [np.zeros(0, np.int64)]
        )

    if "input_ids" in dataset.column_names:
        return column("input_ids")
    longer = np.maximum(column("chosen_ids"), column("rejected_ids"))
    return longer + column("prompt_ids") if "prompt_ids" in dataset.column_names else longer


def divide(
    lengths: Lengths, update: tuple[int, int, int], *, may_divide: bool, largest: int | None, on_gpu: bool
) -> Division:
    """The cheapest way to divide an update of (rows, accumulation, processes) into sorted micro-batches of at most as
    many rows, and at most `largest`. The way that is written wins unless another saves a twentieth."""
    rows, accumulation, processes = update
    window, overhead = rows * accumulation * processes, OVERHEAD["gpu" if on_gpu else "cpu"]
    drawn = np.random.default_rng(0).choice(len(lengths), min(len(lengths), SAMPLE), replace=False)
    some = lengths[drawn[: max(window, len(drawn) // window * window)]]
    sizes = [one for one in range(rows, 0, -1) if rows % one == 0] if may_divide else [rows]
    fitting = [one for one in sizes if largest is None or one <= largest] or sizes[-1:]
    places = {one: count_places(some, window, one) for one in fitting}
    costs = {one: places[one] + overhead * -(-len(some) // one) for one in fitting}
    best = min(fitting, key=lambda one: costs[one])
    if costs[best] > 0.95 * costs[fitting[0]]:
        best = fitting[0]
    return Division(best, accumulation * (rows // best), places[best], count_places(some, rows, rows))


def count_places(lengths: Lengths, window: int, size: int) -> int:
    """Places of micro-batches of `size` rows, padding among them, where the rows of each `window` are sorted."""
    whole = len(lengths) // window * window
    rows = -np.sort(-lengths[:whole].reshape(-1, window), axis=1)
    places = int(rows[:, ::size].sum()) * size  # `size` divides `window`
    rest = -np.sort(-lengths[whole:])
    counts = np.minimum(size, len(rest) - np.arange(0, len(rest), size))
    return places + int((rest[::size] * counts).sum())


def sort_updates(trainer: Trainer, *, whole_only: bool) -> None:
    """Let the trainer's data loader sort the rows of each update by length. With `whole_only`, the rows of an epoch's
    last update stay as drawn where they are fewer than the others'."""
    arguments, make = trainer.args, trainer.get_train_dataloader
    window = (
        arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    )
    lengths: Lengths | None = None

    def get_train_dataloader() -> Any:
        nonlocal lengths
        loader = make()
        batches = loader.batch_sampler
        while hasattr(batches, "batch_sampler"):  # of several processes each has its share of the batches
            batches = batches.batch_sampler
        if lengths is None:
            lengths = read_lengths(trainer.train_dataset)
        loader.set_sampler(_Sorted(batches.sampler, lengths, window, whole_only))
        return loader

    trainer.get_train_dataloader = get_train_dataloader


class _Sorted:
    """A sampler with the rows of another, each `window` of them sorted by length."""

    def __init__(self, drawn: Any, lengths: Lengths, window: int, whole_only: bool) -> None:
        self.drawn, self.lengths, self.window, self.whole_only = drawn, lengths, window, whole_only

    def __len__(self) -> int:
        return len(self.drawn)

    def __iter__(self) -> Iterator[int]:
        rows: list[int] = []
        for row in self.drawn:
            rows.append(row)
            if len(rows) == self.window:
                yield from self._sort(rows)
                rows = []
        yield from rows if self.whole_only else self._sort(rows)

    def set_epoch(self, epoch: int) -> None:
        """As of accelerate's sampler, which draws by the epoch."""
        if hasattr(self.drawn, "set_epoch"):
            self.drawn.set_epoch(epoch)

    def _sort(self, rows: list[int]) -> list[int]:
        return sorted(rows, key=lambda row: -self.lengths[row])
