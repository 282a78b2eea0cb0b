"""Rows or tokens are lost between the files and the trainer.

Symptom: epochs are shorter than the data, and part of them is never trained on.
Cause: packing cuts what does not fit into a pack, or a step of the preparation drops rows in silence.
Fix: raise training.max_length, or set training.packing_strategy: bfd_split, which keeps what overflows.
Source: shares of 1 % (warning) and 10 % (error) of the tokens: trl#4632, axolotl#775.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.rows import IGNORED, Rows
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from datasets import Dataset

    from ftrun.checks.testing import World

MANY, SOME = 0.10, 0.01


@check("DATA013", title="every row that is read reaches the trainer", methods=("sft",))
def rows_lost(at: AtData) -> Iterator[Finding]:
    yield from _judge_counts(at)
    training = at.recipe.training
    eval_packing = training["packing"] if training["eval_packing"] is None else training["eval_packing"]
    yield from _judge_dataset(at, "train", at.train, at.train_dataset, training["packing"])
    if at.eval is not None and at.eval_dataset is not None:
        yield from _judge_dataset(at, "eval", at.eval, at.eval_dataset, eval_packing)


def _judge_counts(at: AtData) -> Iterator[Finding]:
    wrong = [count for count in at.counts if not count.adds_up]
    for split, rows in (("train", at.train), ("eval", at.eval)):
        kept = sum(count.kept for count in at.counts if count.split == split)
        if rows is not None and kept != len(rows):
            wrong += [count for count in at.counts if count.split == split]
    if wrong:
        yield Finding(
            message="The rows that were read are not all accounted for.",
            fix="Report this, with the counts below: it is a fault of ftrun.",
            where=at.where("data.train"),
            evidence=tuple(str(count) for count in wrong[:3]),
        )


@dataclass(frozen=True)
class _Sum:
    tokens: int
    trained: int
    checksum: int
    """The sum of the ids of all tokens, whatever their order."""


def _judge_dataset(at: AtData, split: str, rows: Rows, dataset: Dataset, packing: bool) -> Iterator[Finding]:
    before, after = _sum_rows(rows), _sum_dataset(dataset)
    where = at.where("training.packing" if packing else f"data.{split}")
    if before == after and (packing or len(dataset) == len(rows)):
        return
    lost = 1 - after.tokens / before.tokens if before.tokens else 0.0
    if packing and lost > 0:
        if lost > SOME:
            yield Finding(
                message=f"Packing the {split} rows loses {lost:.1%} of their tokens: {after.tokens:,} of "
                f"{before.tokens:,} are left, in {len(dataset)} packs of {len(rows)} rows.",
                fix="Raise training.max_length, or set training.packing_strategy: bfd_split.",
                where=where,
                severity="error" if lost > MANY else "warning",
            )
        return
    yield Finding(
        message=f"The {split} data set holds {len(dataset)} rows with {after.tokens:,} tokens, "
        f"{after.trained:,} of them trained; it was made of {len(rows)} rows with {before.tokens:,} tokens, "
        f"{before.trained:,} trained.",
        fix="Report it if ftrun made this data set; otherwise feed the trainer the rows as they are.",
        where=where,
    )


def _sum_rows(rows: Rows) -> _Sum:
    import numpy as np

    trained = int(np.count_nonzero(rows.labels != IGNORED))
    return _Sum(len(rows.ids), trained, int(rows.ids.sum(dtype=np.int64)))


def _sum_dataset(dataset: Dataset) -> _Sum:
    import numpy as np

    tokens = trained = checksum = 0
    for table in dataset.with_format("arrow").iter(batch_size=10_000):
        ids, labels = (
            np.concatenate([part.flatten().to_numpy(zero_copy_only=False) for part in table[name].chunks])
            for name in ("input_ids", "labels")
        )
        tokens += len(ids)
        trained += int(np.count_nonzero(labels != IGNORED))
        checksum += int(ids.sum(dtype=np.int64))
    return _Sum(tokens, trained, checksum)


@rows_lost.fault
def packing_cuts_what_overflows(world: World) -> None:
    world.recipe["training"] |= {"packing": True, "max_length": 256}

    def damage(at: AtData) -> AtData:
        from trl import pack_dataset

        # Packs shorter than the rows, as packing without an eye on their lengths makes them.
        return replace(
            at, train_dataset=pack_dataset(at.train_dataset.remove_columns("seq_lengths"), 64, "bfd")
        )

    world.after(AtData, damage)


@rows_lost.fault
def a_filter_drops_rows(world: World) -> None:
    world.after(AtData, lambda at: replace(at, train_dataset=at.train_dataset.select(range(30))))


@rows_lost.fault
def labels_do_not_arrive(world: World) -> None:
    def damage(at: AtData) -> AtData:
        masked = at.train_dataset.map(lambda row: {"labels": [IGNORED] * len(row["labels"])})
        return replace(at, train_dataset=masked)

    world.after(AtData, damage)


@rows_lost.fault
def counts_do_not_add_up(world: World) -> None:
    def damage(at: AtData) -> AtData:
        return replace(at, counts=tuple(replace(count, read=count.read + 1) for count in at.counts))

    world.after(AtData, damage)
