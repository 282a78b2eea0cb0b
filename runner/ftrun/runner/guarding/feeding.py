"""Counting what the data loader feeds, on the device, batch for batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ftrun.checks.batches import keys_of, rows_of
from ftrun.checks.fed import Fed, Spreads, count_batch, spread_rows
from ftrun.checks.rows import IGNORED
from ftrun.checks.stages import AtModel
from ftrun.checks.training import AtBatches
from ftrun.runner.guarding.transfer import bring

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from transformers import Trainer, TrainerCallback

    from ftrun.runner.guarding.watch import Watch


def spread_data(at: AtModel) -> Spreads:
    """The counts of all rows of the data stage, as the data loader divides them into rows."""
    packing = at.recipe.training.get("packing", False)
    if packing and at.recipe.training["packing_strategy"] != "bfd":
        ids, labels, starts = _read_packs(at)
    else:
        ids, labels, starts = at.train.ids, at.train.labels, at.train.starts
    told = None if at.recipe.method == "reward" else labels  # a scorer trains no tokens
    free = packing or at.recipe.training.get("padding_free", False)
    return spread_rows(ids, told, starts, at.stop_ids, shortest=2 if free else 1)


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
    fresh: list[tuple[Callable[[], list[float]], Sequence[Any]]] = []
    waiting: list[tuple[int, int, Callable[[], list[float]], Sequence[Any]]] = []

    def collect_counted(*args: Any, **kwargs: Any) -> Any:
        batches, items = collect(*args, **kwargs)
        if batches:
            fresh[:] = [(bring(_count(trainer, batches, stops)), batches)]
        return batches, items

    trainer.get_batch_samples = collect_counted

    class CountFed(TrainerCallback):  # type: ignore[misc, unused-ignore]  # transformers is untyped here
        epoch, counted, fed = 0, 0, Fed()

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.epoch += 1

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            waiting.extend((state.global_step, self.epoch, *one) for one in fresh)
            fresh.clear()
            # As in `ftrun.runner.guarding.watch`: a GPU is not waited for.
            self.ask(keep=0 if args.device.type == "cpu" or control.should_save else 1)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.ask(keep=0)

        def ask(self, keep: int) -> None:
            while len(waiting) > keep:
                step, epoch, wait, batches = waiting.pop(0)
                update = Fed(*(round(count) for count in wait()))
                self.fed = self.fed + update if epoch == self.counted else update
                self.counted = epoch
                recipe, file = watch.training.recipe, watch.training.file
                name = partial(_name_untaught, at, batches)
                watch.ask(AtBatches(recipe, file, update, self.fed, data, name), step, batches)

    return CountFed()


def _count(trainer: Trainer, batches: Sequence[Any], stops: torch.Tensor) -> torch.Tensor:
    import torch

    counts = torch.stack([count_batch(batch, stops) for batch in batches]).sum(0).float()
    if trainer.args.world_size > 1:
        counts = trainer.accelerator.reduce(counts, "sum")  # all processes are to decide alike
    return counts


def _name_untaught(at: AtModel, batches: Sequence[Any]) -> tuple[str, ...]:
    """Where the rows come from that train nothing, ten of them at most."""
    places = {key: number for number, key in enumerate(keys_of(at.train))}
    numbers = (places.get(ids.tobytes()) for ids in _find_untaught(at, batches))
    found = (at.train[number].where for number in numbers if number is not None)
    return tuple(dict.fromkeys(f"{where.file} row {where.row}" for where in found))[:10]


def _find_untaught(at: AtModel, batches: Sequence[Any]) -> Iterator[NDArray[np.int32]]:
    for batch in batches:
        for ids, labels in rows_of(batch, at.tokenizer.pad_token_id):
            if not (labels[1:] != IGNORED).any():
                yield ids
