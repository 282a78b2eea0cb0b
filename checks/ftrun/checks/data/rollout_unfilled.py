"""There are fewer prompts than a rollout takes, or many that no rollout takes.

Symptom: the same prompts are answered several times within a rollout, or a good part of them in no epoch.
Cause: a rollout takes per_device_train_batch_size × gradient_accumulation_steps × num_mini_batches prompts, and an
epoch has whole rollouts alone; or training.max_prompt_length leaves most of the prompts out.
Fix: make the rollout smaller with `training.num_mini_batches`, bring more prompts, or raise the limit of their length.
Source: told are nine in ten prompts that are left out, however many remain; no prompt at all is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

KEY = "training.num_mini_batches"
LIMIT = "training.max_prompt_length"
NEARLY_ALL = 0.9
IDLE = 1 / 3
"""Share of the prompts that may stay out of an epoch; they take turns, since each epoch has an order of its own."""


@check("PPO002", title="the prompts fill their rollouts", severity="warning", methods=("ppo",))
def rollout_unfilled(at: AtData) -> Iterator[Finding]:
    """Compare the number of prompts with the size of a rollout."""
    training, prompts = at.recipe.training, len(at.train)
    minibatch = (
        training["per_device_train_batch_size"] * training["gradient_accumulation_steps"] * at.process_count
    )
    size = minibatch * training["num_mini_batches"]
    too_long = len(at.train.too_long)
    if too_long and (prompts < size or too_long >= NEARLY_ALL * (too_long + prompts)):
        limit = training["max_prompt_length"]
        yield Finding(
            f"{too_long} of {prompts + too_long} prompts are left out, since they have more than {limit} tokens: "
            f"{prompts} are left, and a rollout takes {size}.",
            f"Raise {LIMIT}, or remove it, and no prompt is left out.",
            at.where(LIMIT),
            severity="warning" if prompts else "error",
        )
    elif not prompts:
        if not any(count.unreadable for count in at.counts):  # DATA005 tells those
            yield Finding(
                "There is no prompt.",
                "Raise the weight of a source in data.train, or give a source with more rows.",
                at.where("data.train"),
                severity="error",
            )
    elif prompts < size:
        yield Finding(
            f"A rollout takes {size} prompts, in {training['num_mini_batches']} minibatches of {minibatch}, and "
            f"there are {prompts}: some are answered more than once in each.",
            f"Bring {size} prompts or more, or lower {KEY} or the batch size.",
            at.where(KEY),
        )
    elif prompts % size > IDLE * prompts:
        yield Finding(
            f"Rollouts of {size} take {prompts - prompts % size} of the {prompts} prompts; "
            f"{prompts % size} stay out of each epoch.",
            f"Choose {KEY} and the batch size so that their product divides {prompts} with less left.",
            at.where(KEY),
        )


@rollout_unfilled.fault
def a_rollout_larger_than_the_data(world: World) -> None:
    """A batch size from a run with more prompts."""
    world.recipe["training"]["per_device_train_batch_size"] = 64


@rollout_unfilled.fault
def hardly_a_prompt_is_short_enough(world: World) -> None:
    """A limit in words, or of another tokenizer."""
    world.recipe["training"]["max_prompt_length"] = 4


@rollout_unfilled.fault
def a_rollout_of_many_processes(world: World) -> None:
    """Each of them takes as many prompts."""
    world.recipe["launch"] = {"processes": 16}


@rollout_unfilled.fault
def a_rollout_of_just_over_half(world: World) -> None:
    """Nearly half of the prompts stay out."""
    world.recipe["training"] |= {"per_device_train_batch_size": 9, "num_mini_batches": 2}
