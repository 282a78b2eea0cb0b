"""The collated batch holds other tokens or labels than the rows.

Symptom: the model never stops, or does not learn, or prefers the worse answers, although the rows are right: what
reaches the loss is not what the rows say.
Cause: a data collator that makes labels of its own: it masks padding by its id (which is also the id that ends an
answer), searches for the words before an answer and misses them, or masks everything; one that exchanges the sides of
pairs, or cuts rows.
Fix: let the collator pad and nothing else: labels come with the rows, and padding is masked by its place.
Source: transformers#23530, trl#976 (labels masked where they are the padding token), trl#588, trl#1183 (a marker
that is tokenised otherwise in its place).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ftrun.checks.batches import Pair, find_rows, rows_of
from ftrun.checks.check import check
from ftrun.checks.dry_step import known
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import clip
from ftrun.checks.finding import Finding
from ftrun.checks.rows import IGNORED
from ftrun.checks.stages import AtModel, AtStep

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ftrun.checks.testing import World


@check("DATA028", title="the batch holds the tokens and labels of the rows", methods=("sft", "reward", "dpo"))
def batch_unlike_rows(at: AtStep) -> Iterator[Finding]:
    batch = known(at.step.batch, at)
    packing = at.recipe.training.get("packing", False)
    if packing and at.recipe.training["packing_strategy"] != "bfd":
        raise NotApplicable("packing divides the rows, and parts of them are in the batch")
    if at.recipe.method == "dpo" and bool((at.train.full_lengths > at.train.lengths).any()):
        raise NotApplicable("the collator cuts pairs that are too long")
    fed = list(rows_of(batch, at.tokenizer.pad_token_id))
    numbers_of = find_rows(at.train, (ids.tobytes() for ids, _ in fed))
    strange = [ids for ids, _ in fed if ids.tobytes() not in numbers_of]
    if strange:
        yield Finding(
            message=f"{len(strange)} of {len(fed)} rows of the first batch are none of the {len(at.train)} training "
            "rows: the data collator changes tokens.",
            fix="Let the data collator pad and nothing else.",
            where=at.where("data"),
            evidence=tuple(clip(at.tokenizer.decode(ids[:64].tolist())) for ids in strange[:3]),
        )
        return
    yield from _judge_copies(at, [ids.tobytes() for ids, _ in fed], numbers_of)
    if at.train.sides == 2:
        yield from _judge_sides(at, fed, numbers_of)
    if "labels" in batch or "completion_mask" in batch:
        yield from _judge_labels(at, fed, numbers_of)


def _judge_copies(
    at: AtStep, fed: Sequence[bytes], numbers_of: Mapping[bytes, Sequence[int]]
) -> Iterator[Finding]:
    """No row of a batch, which is less than an epoch, stands in it more often than in the data."""
    copies = sum(max(0, count - len(numbers_of[ids])) for ids, count in Counter(fed).items())
    if copies and len(fed) <= len(at.train):
        yield Finding(
            message=f"{copies} of {len(fed)} rows of the first batch are further copies of a row in it: the data "
            "collator "
            "repeats rows, and leaves others out.",
            fix="Let the data collator pad and nothing else.",
            where=at.where("data"),
        )


def _judge_sides(
    at: AtStep, fed: Sequence[Pair], numbers_of: Mapping[bytes, Sequence[int]]
) -> Iterator[Finding]:
    """The first half of a batch of pairs is their chosen sides, the second half the rejected ones."""
    half = len(fed) // 2
    wrong = [
        place
        for place, (ids, _) in enumerate(fed)
        if all(number % 2 != place // half for number in numbers_of[ids.tobytes()])
    ]
    if wrong:
        yield Finding(
            message=f"{len(wrong)} of the {len(fed)} sides in the first batch stand on the other side of their pair: "
            "rejected answers are taken for chosen ones.",
            fix="Let the data collator give the chosen sides first, and then the rejected ones.",
            where=at.where("data"),
            evidence=tuple(clip(at.tokenizer.decode(fed[place][0].tolist())) for place in wrong[:2]),
        )


def _judge_labels(
    at: AtStep, fed: Sequence[Pair], numbers_of: Mapping[bytes, Sequence[int]]
) -> Iterator[Finding]:
    lost = gained = 0
    shown: list[str] = []
    for ids, labels in fed:
        # Rows of the same tokens may train others of them; the nearest is the one.
        alike = (at.train[number] for number in numbers_of[ids.tobytes()][:8])
        row = min(alike, key=lambda one: int((one.labels != labels).sum()))
        missing, added = (labels == IGNORED) & (row.labels != IGNORED), (labels != row.labels)
        missing[:1] = added[:1] = False  # no model predicts a first token, and packing masks it
        lost, gained = lost + int(missing.sum()), gained + int((added & ~missing).sum())
        if added.any() and len(shown) < 3:
            shown.append(f"{row.where}: {_name(at, ids[added])}")
    if lost or gained:
        yield Finding(
            message=f"In the first batch of {len(fed)} rows, {lost} tokens that the rows train are masked and {gained} "
            "have another label than in their row: the data collator makes labels of its own.",
            fix="Let the data collator take the labels of the rows, and mask padding by its place.",
            where=at.where("data"),
            evidence=tuple(shown),
        )


def _name(at: AtStep, ids: NDArray[np.int32]) -> str:
    return ", ".join(repr(at.tokenizer.decode([id])) for id in ids[:5].tolist())


@batch_unlike_rows.fault
def padding_is_masked_by_its_id(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        from transformers import DataCollatorForLanguageModeling

        at.tokenizer.pad_token = at.tokenizer.eos_token
        collate = DataCollatorForLanguageModeling(at.tokenizer, mlm=False)
        at.trainer.data_collator = lambda rows: collate([{"input_ids": row["input_ids"]} for row in rows])
        return at

    world.after(AtModel, damage)


@batch_unlike_rows.fault
def marker_before_the_answer_is_not_found(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        collate = at.trainer.data_collator

        def search(rows: Any) -> Any:
            batch = collate(rows)
            batch["labels"][1:] = IGNORED
            return batch

        at.trainer.data_collator = search
        return at

    world.after(AtModel, damage)


@batch_unlike_rows.fault
def one_row_is_the_batch(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        collate = at.trainer.data_collator
        at.trainer.data_collator = lambda rows: collate([rows[0]] * len(rows))
        return at

    world.after(AtModel, damage)


@batch_unlike_rows.fault
def sides_are_exchanged(world: World) -> None:
    from ftrun.checks.testing import dpo_full

    def damage(at: AtModel) -> AtModel:
        collate = at.trainer.data_collator

        def exchange(rows: Any) -> Any:
            batch = collate(rows)
            return {name: value.roll(len(value) // 2, dims=0) for name, value in batch.items()}

        at.trainer.data_collator = exchange
        return at

    pairs = dpo_full(world.folder)
    world.recipe, world.rows = pairs.recipe, pairs.rows
    world.after(AtModel, damage)


@batch_unlike_rows.fault
def first_token_is_dropped(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        collate = at.trainer.data_collator

        def drop(rows: Any) -> Any:
            return {name: value[:, 1:] for name, value in collate(rows).items()}

        at.trainer.data_collator = drop
        return at

    world.after(AtModel, damage)
