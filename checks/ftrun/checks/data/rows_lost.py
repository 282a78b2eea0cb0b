"""Rows or tokens are lost between the files and the trainer.

Symptom: epochs are shorter than the data, and part of them is never trained on.
Cause: packing cuts what does not fit into a pack, a step of the preparation drops rows in silence, or a weight leaves
hardly a row of a source.
Fix: raise training.max_length, set training.packing_strategy: bfd_split, which keeps what overflows, or raise the
weight.
Source: shares of 1 % (warning) and 10 % (error) of the tokens: trl#4632, axolotl#775.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.rows import IGNORED, Rows
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from datasets import Dataset

    from ftrun.checks.testing import World

MANY, SOME = 0.10, 0.01
MANY_ROWS, A_FEW = 100, 5
"""Rows of a source of which so few teach nothing."""


@check("DATA013", title="every row that is read reaches the trainer", methods=("sft", "reward", "dpo"))
def rows_lost(at: AtData) -> Iterator[Finding]:
    yield from _judge_counts(at)
    yield from _judge_weights(at)
    training = at.recipe.training
    packing = training.get("packing", False)
    eval_packing = packing if training.get("eval_packing") is None else training["eval_packing"]
    yield from _judge_dataset(at, "train", at.train, at.train_dataset, packing)
    if at.eval is not None and at.eval_dataset is not None:
        yield from _judge_dataset(at, "eval", at.eval, at.eval_dataset, eval_packing)


def _judge_counts(at: AtData) -> Iterator[Finding]:
    wrong = [count for count in at.counts if not count.adds_up]
    for split, rows in (("train", at.train), ("eval", at.eval)):
        kept = sum(count.kept for count in at.counts if count.split == split)
        if rows is not None and kept * rows.sides != len(rows):
            wrong += [count for count in at.counts if count.split == split]
    if wrong:
        yield Finding(
            message="The rows that were read are not all accounted for.",
            fix="Report this, with the counts below: it is a fault of ftrun.",
            where=at.where("data.train"),
            evidence=tuple(str(count) for count in wrong[:3]),
        )


def _judge_weights(at: AtData) -> Iterator[Finding]:
    several = sum(count.split == "train" for count in at.counts) > 1
    for count in at.counts:
        there = count.read - count.unreadable - count.held_out
        if count.split == "train" and 0 < there == count.unused:
            yield Finding(
                message=f"None of the {count.read} rows of {count.label} is used: its weight rounds to no row.",
                fix=f"Raise the weight of {count.label}, or remove the source.",
                where=at.where("data.train"),
                severity="warning",
            )
        elif count.split == "train" and several and there >= MANY_ROWS and there - count.unused <= A_FEW:
            yield Finding(
                message=f"{there - count.unused} of the {there} rows of {count.label} are used: its weight leaves no "
                "more.",
                fix=f"Raise the weight of {count.label}, or remove the source.",
                where=at.where("data.train"),
                severity="warning",
            )


@dataclass(frozen=True)
class _Sum:
    tokens: int
    trained: int
    checksum: int
    """The sum of the ids of all tokens, whatever their order."""

    def __add__(self, other: _Sum) -> _Sum:
        return _Sum(self.tokens + other.tokens, self.trained + other.trained, self.checksum + other.checksum)


def _judge_dataset(at: AtData, split: str, rows: Rows, dataset: Dataset, packing: bool) -> Iterator[Finding]:
    if _is_cut_later(at, rows):
        return  # the data set holds whole rows, and the collator cuts them
    before, after = _sum_rows(rows, dataset), _sum_dataset(dataset, rows)
    where = at.where("training.packing" if packing else f"data.{split}")
    if before == after and (packing or len(dataset) * rows.sides == len(rows)):
        return
    lost = 1 - after.tokens / before.tokens if before.tokens else 0.0
    if packing and lost > 0:
        if lost > SOME:
            yield Finding(
                message=f"Packing the {split} rows loses {lost:.1%} of their tokens: {after.tokens:,} of "
                f"{before.tokens:,} are left, in {len(dataset)} packs of {len(rows)} rows.",
                fix="Raise training.max_length, or set training.packing_strategy: bfd_split.",
                where=where,
                patch=Patch("training.packing_strategy", "bfd_split"),
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


def _is_cut_later(at: AtData, rows: Rows) -> bool:
    """Whether the collator cuts rows anew: DPO's does where prompts lose their beginnings."""
    return (
        at.recipe.method == "dpo"
        and at.recipe.training["truncation_mode"] == "keep_end"
        and bool((rows.full_lengths > rows.lengths).any())
    )


def _sum_rows(rows: Rows, dataset: Dataset) -> _Sum:
    import numpy as np

    total = _Sum(0, 0, 0)
    for _, block in rows.blocks():
        trained = block.labels != IGNORED
        kept = np.ones(len(block.ids), np.bool_)
        if "prompt_ids" in dataset.column_names:  # the prompt of a pair is there once
            kept = trained | np.repeat(np.arange(len(block)) % 2 == 0, block.lengths)
        elif "chosen_ids" in dataset.column_names:  # a reward is of whole rows
            trained = kept
        counts = np.count_nonzero(kept), np.count_nonzero(trained), block.ids[kept].sum(dtype=np.int64)
        total = total + _Sum(*map(int, counts))
    return total


def _sum_dataset(dataset: Dataset, rows: Rows) -> _Sum:
    import numpy as np

    columns = [
        name
        for name in ("input_ids", "prompt_ids", "chosen_ids", "rejected_ids", "labels")
        if name in dataset.column_names
    ]
    tokens = trained = checksum = 0
    for table in dataset.with_format("arrow").iter(batch_size=10_000):
        for name in columns:
            values = np.concatenate(
                [part.flatten().to_numpy(zero_copy_only=False) for part in table[name].chunks]
            )
            if name == "labels":
                trained += int(np.count_nonzero(values != IGNORED))
                continue
            tokens += len(values)
            trained += len(values) if name in ("chosen_ids", "rejected_ids") else 0
            checksum += int(values.sum(dtype=np.int64))
        rows.release()  # the data set holds the same memory
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
def a_weight_rounds_to_nothing(world: World) -> None:
    import json

    world.folder.mkdir(parents=True, exist_ok=True)
    more = "".join(json.dumps({**row, "prompt": f"Again: {row['prompt']}"}) + "\n" for row in world.rows)
    (world.folder / "more.jsonl").write_text(more, encoding="utf-8")
    world.recipe["data"]["train"].append({"path": "more.jsonl", "weight": 0.001})


@rows_lost.fault
def a_weight_leaves_a_handful(world: World) -> None:
    import json

    world.folder.mkdir(parents=True, exist_ok=True)
    more = "".join(
        json.dumps({**row, "prompt": f"Again, number {number}: {row['prompt']}"}) + "\n"
        for number in range(10)
        for row in world.rows
    )
    (world.folder / "more.jsonl").write_text(more, encoding="utf-8")
    world.recipe["data"]["train"].append({"path": "more.jsonl", "weight": 0.01})


@rows_lost.fault
def a_filter_drops_rows(world: World) -> None:
    world.after(AtData, lambda at: replace(at, train_dataset=at.train_dataset.select(range(30))))


@rows_lost.fault
def sides_of_pairs_are_cut(world: World) -> None:
    from ftrun.checks.testing import reward_full

    world.recipe["method"] = "reward"
    world.rows = reward_full(world.folder).rows

    def damage(at: AtData) -> AtData:
        cut = at.train_dataset.map(lambda pair: {"rejected_ids": pair["rejected_ids"][:-1]})
        return replace(at, train_dataset=cut)

    world.after(AtData, damage)


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
