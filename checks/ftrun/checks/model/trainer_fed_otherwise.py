"""The trainer reads other rows than those that were prepared and checked.

Symptom: the run is shorter than planned, or learns nothing of a part of the data.
Cause: something took rows away, replaced them or divided them again after they were prepared: a filter, a limit of a
trial that was left in.
Fix: choose rows in the recipe (`data:`), where they are counted.
Prevention: compare the rows of a run with those that `ftrun preflight` shows.
Source: the number of rows of the trainer's data sets, some of their tokens, and those of the data stage; for PPO also
the rows that the reward reads, which have to stand in the order of their prompts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.examples import spread
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    from ftrun.checks.testing import World

LOOKED_AT = 64
"""Rows of a split."""


@check("DATA049", title="the trainer reads the rows that were prepared")
def trainer_fed_otherwise(at: AtModel) -> Iterator[Finding]:
    splits: tuple[tuple[str, Any, Any], ...] = (
        ("train", at.train_dataset, at.trainer.train_dataset),
        ("eval", at.eval_dataset, at.trainer.eval_dataset),
    )
    for split, prepared, fed in splits:
        wanted, given = (0 if one is None else len(one) for one in (prepared, fed))
        if wanted != given:
            yield Finding(
                message=f"{wanted} rows were prepared for {split}, and the trainer reads {given}.",
                fix="Choose rows under `data:`, and leave the trainer's data sets as they are.",
                where=at.where(f"data.{split}"),
            )
        elif wanted:
            yield from _compare_tokens(at, split, prepared, fed)
    if at.recipe.method == "ppo":
        yield from _compare_examples(at)


def _compare_tokens(at: AtModel, split: str, prepared: Any, fed: Any) -> Iterator[Finding]:
    columns = {"input_ids", "prompt_ids", "chosen_ids", "rejected_ids"} & set(prepared.column_names)
    places = spread(len(prepared), LOOKED_AT).tolist()
    # Some trainers name or shape columns anew; what both have can be compared.
    shared = sorted(columns & set(fed.column_names))
    other = sum(
        any(list(prepared[place][name]) != list(fed[place][name]) for name in shared) for place in places
    )
    if other:
        yield Finding(
            message=f"{other} of {len(places)} rows of {split} that were looked at have other tokens in the "
            "trainer than "
            "they were prepared with.",
            fix="Leave the trainer's data sets as they are.",
            where=at.where(f"data.{split}"),
        )


def _compare_examples(at: AtModel) -> Iterator[Finding]:
    """The reward is given the row of the prompt that was answered."""
    trainer: Any = at.trainer
    if trainer.examples is None or len(trainer.examples) != len(at.train):
        return
    places = spread(len(at.train), LOOKED_AT).tolist()
    other = [
        place for place in places if trainer.examples[place]["prompt"] != at.train[place].example["prompt"]
    ]
    if other:
        yield Finding(
            message=f"{len(other)} of {len(places)} answers would be rewarded by the row of another prompt.",
            fix="Give the trainer its examples in the order of its prompts.",
            where=at.where("data.train"),
        )


@trainer_fed_otherwise.fault
def a_trials_limit_is_left_in(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        at.trainer.train_dataset = at.trainer.train_dataset.select(range(16))
        return at

    world.after(AtModel, damage)


@trainer_fed_otherwise.fault
def rows_are_changed_behind(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        at.trainer.train_dataset = at.trainer.train_dataset.map(
            lambda row: {"input_ids": [*row["input_ids"][:-1], 5]}
        )
        return at

    world.after(AtModel, damage)


@trainer_fed_otherwise.fault
def rewards_read_other_rows(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        trainer: Any = at.trainer
        trainer.examples = list(reversed(trainer.examples))
        return at

    from ftrun.checks.testing import ppo_full

    healthy = ppo_full(world.folder)
    world.recipe, world.rows = healthy.recipe, healthy.rows
    world.after(AtModel, damage)
