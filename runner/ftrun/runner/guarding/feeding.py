"""Counting what the data loader feeds, on the device, batch for batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ftrun.checks.batches import find_rows, rows_of
from ftrun.checks.fed import Fed, Spreads, count_batch, find_segments, spread_rows
from ftrun.checks.mixture import AtMixture, AtSourceLosses, Makeup, Mixture, Packs
from ftrun.checks.register import Register, number_rows
from ftrun.checks.rows import IGNORED
from ftrun.checks.stages import AtModel
from ftrun.checks.training import AtBatches
from ftrun.runner.guarding.transfer import Counted
from ftrun.runner.ranks import gather

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import TrainerCallback

    from ftrun.runner.guarding.watch import Watch


GUARDS = frozenset({"batches_unlike_data", "sources_drift", "source_left_behind"})
"""Those that wait for batches."""

SORTED = 50
"""Micro-batches that transformers sorts together by length (`get_length_grouped_indices`)."""

Flat = tuple["NDArray[np.int32]", "NDArray[np.int32]", "NDArray[np.int64]", "NDArray[np.int32] | None"]
"""Rows: ids, labels, starts, and the source of each where it is known."""


def read_rows(at: AtModel) -> Iterator[Flat]:
    """All rows of the data stage, as the data loader divides them into rows. Sources are not known of what packing
    cuts."""
    if at.recipe.training.get("packing", False) and at.recipe.training["packing_strategy"] != "bfd":
        yield (*_read_packs(at), None)
        return
    for _, block in at.train.blocks():
        yield block.ids, block.labels, block.starts, block.origins[:, 0]


def spread_data(at: AtModel) -> Spreads:
    """The counts of all rows."""
    scores = at.recipe.method == "reward"  # a scorer trains no tokens
    parts = ((ids, None if scores else labels, starts) for ids, labels, starts, _ in read_rows(at))
    return spread_rows(parts, at.stop_ids, shortest=_find_shortest(at))


def register_data(at: AtModel) -> Register:
    """All rows, by their numbers."""
    import torch

    parts = []
    for ids, _, starts, origins in read_rows(at):
        chosen = torch.from_numpy(np.diff(starts) >= _find_shortest(at))
        own = None if origins is None else torch.from_numpy(origins.astype(np.int64))[chosen]
        parts.append((number_rows(ids, starts, at.train.sides)[chosen], own))
    return Register(parts, len(at.train.sources), at.trainer.args.device, at.train.sides)


def _find_shortest(at: AtModel) -> int:
    training = at.recipe.training
    return 2 if training.get("packing", False) or training.get("padding_free", False) else 1


def find_makeup(at: AtModel, register: Register) -> Makeup | None:
    """What the data stage has of each source; None where there are not several, or rows do not tell."""
    training, count = at.recipe.training, register.sources
    origins = register.origins.cpu().numpy().repeat(register.copies.cpu().numpy())
    rows = np.bincount(origins, minlength=count + 1)[:count]
    if (rows > 0).sum() < 2:
        return None
    labels, sides = tuple(source.label for source in at.train.sources), at.train.sides
    if training.get("packing", False):
        return Makeup(labels, rows, packs=_find_packs(at, register, rows / rows.sum()))
    sorts = training["train_sampling_strategy"] == "group_by_length"
    slack = 2 * SORTED * at.trainer.args.per_device_train_batch_size * sides if sorts else 0
    return Makeup(labels, rows, sides, slack)


def _find_packs(at: AtModel, register: Register, shares: NDArray[np.float64]) -> Packs:
    ids, _, starts = _read_packs(at)
    known = register.name_origins(number_rows(ids, starts).to(register.keys.device)).cpu().numpy()
    lengths = at.train_dataset.with_format("arrow")["seq_lengths"][:].combine_chunks().value_lengths()
    packs = np.repeat(np.arange(len(lengths)), lengths.to_numpy(zero_copy_only=False))
    held = np.zeros((len(lengths), register.sources + 1))
    np.add.at(held, (packs, known), 1)
    held = held[:, :-1]
    away = held - held.sum(1, keepdims=True) * shares
    return Packs((away**2).mean(0), np.abs(away).max(0), float(held.sum(1).mean()))


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

    trainer, data, register = at.trainer, spread_data(at), register_data(at)
    stops = torch.tensor(sorted(at.stop_ids), device=trainer.args.device)
    collect, makeup = trainer.get_batch_samples, find_makeup(at, register)
    mixture = None if makeup is None else Mixture(makeup)

    def count(batch: Any) -> torch.Tensor:
        segments = find_segments(batch)
        return torch.cat([count_batch(segments, stops), register.count(segments)])

    class CountFed(TrainerCallback):  # type: ignore[misc, unused-ignore]  # transformers is untyped here
        epoch, counted, fed = 0, 0, Fed()

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.epoch += 1
            register.begin()

        def collect(self, *args: Any, **kwargs: Any) -> Any:
            batches, items = collect(*args, **kwargs)
            if batches:
                counts = torch.stack([count(batch) for batch in batches]).sum(0)
                watch.counted = Counted(counts, partial(self.judge, self.epoch))
            return batches, items

        def judge(self, epoch: int, step: int, counts: list[float], batches: Sequence[Any]) -> None:
            fields = len(astuple(Fed()))
            update = Fed(*map(round, counts[:fields]))
            self.fed = self.fed + update if epoch == self.counted else update
            self.counted = epoch
            recipe, file = watch.training.recipe, watch.training.file
            name = partial(_name_untaught, at, batches)
            watch.ask(AtBatches(recipe, file, update, self.fed, data, name), step, batches)
            if mixture is not None:
                self.judge_sources(mixture, step, counts[fields:], batches)

        def judge_sources(
            self, mixture: Mixture, step: int, counts: list[float], batches: Sequence[Any]
        ) -> None:
            recipe, file = watch.training.recipe, watch.training.file
            rows, trained = counts[: register.sources], counts[register.sources :]
            last = [one.loss for one in watch.updates.last(1) if one.step == step]
            weights = trained if recipe.method == "sft" else rows
            told = mixture.append(step, list(map(round, rows)), weights, last[0] if last else None)
            watch.ask(AtMixture(recipe, file, mixture, trainer.state.max_steps), step, batches)
            if told:
                watch.ask(AtSourceLosses(recipe, file, mixture.makeup.labels, mixture.losses), step, batches)

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
