"""Counting what the data loader feeds, on the device, batch for batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ftrun.checks.batches import find_rows, rows_of
from ftrun.checks.fed import Fed, Part, Spreads, count_batch, spread_rows
from ftrun.checks.rows import IGNORED
from ftrun.checks.stages import AtModel
from ftrun.checks.training import AtBatches
from ftrun.runner.guarding.transfer import Counted
from ftrun.runner.ranks import gather

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import TrainerCallback

    from ftrun.runner.guarding.watch import Watch


def spread_data(at: AtModel) -> Spreads:
    """The counts of all rows of the data stage, as the data loader divides them into rows."""
    packing = at.recipe.training.get("packing", False)
    if packing and at.recipe.training["packing_strategy"] != "bfd":
        parts: Iterable[Part] = [_read_packs(at)]
    else:
        scores = at.recipe.method == "reward"  # a scorer trains no tokens
        parts = (
            (block.ids, None if scores else block.labels, block.starts) for _, block in at.train.blocks()
        )
    free = packing or at.recipe.training.get("padding_free", False)
    return spread_rows(parts, at.stop_ids, shortest=2 if free else 1)


def _read_packs(at: AtModel) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
    """Rows that packing has divided, in flat arrays: its pieces, or where it does not tell them, whole packs."""
    table = at.train_dataset.with_format("arrow")[:]
    ids, labels = (table[name].combine_chunks() for name in ("input_ids", "labels"))
    divided = "seq_lengths" in table.column_names
    pieces = table["seq_lengths"].combine_chunks().flatten() if divided else ids.value_lengths()
    starts = np.concatenate(([0], pieces.to_numpy(zero_copy_only=False).cumsum(dtype=np.int64)))
    flat = (one.flatten().to_numpy(zero_copy_only=False) for one in (ids, labels))
    return (*flat, starts)


def make_callback(watch: Watch, at: AtModel) -> TrainerCallback:
    """Counts the batches of each update as they come from the data loader, and asks the guards behind the update."""
    import torch
    from transformers import TrainerCallback

    trainer, data = at.trainer, spread_data(at)
    stops = torch.tensor(sorted(at.stop_ids), device=trainer.args.device)
    collect = trainer.get_batch_samples

    class CountFed(TrainerCallback):  # type: ignore[misc, unused-ignore]  # transformers is untyped here
        epoch, counted, fed = 0, 0, Fed()

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.epoch += 1

        def collect(self, *args: Any, **kwargs: Any) -> Any:
            batches, items = collect(*args, **kwargs)
            if batches:
                counts = torch.stack([count_batch(batch, stops) for batch in batches]).sum(0)
                watch.counted = Counted(counts, partial(self.judge, self.epoch))
            return batches, items

        def judge(self, epoch: int, step: int, counts: list[float], batches: Sequence[Any]) -> None:
            update = Fed(*map(round, counts))
            self.fed = self.fed + update if epoch == self.counted else update
            self.counted = epoch
            recipe, file = watch.training.recipe, watch.training.file
            name = partial(_name_untaught, at, batches)
            watch.ask(AtBatches(recipe, file, update, self.fed, data, name), step, batches)

    callback = CountFed()
    trainer.get_batch_samples = callback.collect
    return callback


def _name_untaught(at: AtModel, batches: Sequence[Any]) -> tuple[str, ...]:
    """Where the rows come from that train nothing in some process, ten of them at most. All processes have to call."""
    keys = [ids.tobytes() for ids in _find_untaught(at, batches)]
    places = find_rows(at.train, keys)
    found = (at.train[places[key][-1]].where for key in keys if key in places)
    names = gather([f"{where.file} row {where.row}" for where in found], "rows that train nothing")
    return tuple(dict.fromkeys(name for own in names for name in own))[:10]


def _find_untaught(at: AtModel, batches: Sequence[Any]) -> Iterator[NDArray[np.int32]]:
    for batch in batches:
        for ids, labels in rows_of(batch, at.tokenizer.pad_token_id):
            if not (labels[1:] != IGNORED).any():
                yield ids
