"""A setting of PPO is out of any range that is known to work.

Symptom: the ratio of new to old probabilities runs off within a rollout, advantages are noise, or answers are drawn
from nothing but the likeliest or the unlikeliest tokens.
Cause: a number of another algorithm, a percentage for a share, or a try that was left in.
Fix: take the setting's default, or one of its range.
Prevention: leave out what you have no reason to set.
Source: clipping at 0.2, 3 to 10 passes over a rollout, lambda 0.95: Schulman 2017 (arXiv 1707.06347); temperature 1, no
nucleus, 4 passes: Ziegler 2019 (arXiv 1909.08593), Huang 2024 (arXiv 2403.17031); a target of 6 nats: Ziegler 2019.
Told is what is several times beyond these.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtRecipe

if TYPE_CHECKING:
    from ftrun.checks.testing import World

RANGES = {
    "cliprange": (0.01, 0.6, "nothing is clipped", "hardly anything is learnt"),
    "cliprange_value": (0.01, math.inf, "", "values hardly learn what answers are worth"),
    "missing_eos_penalty": (0.0, math.inf, "", "answers are paid for being cut off"),
    "num_ppo_epochs": (1, 20, "the policy leaves the rollout that it learns from", ""),
    "lam": (0.5, 1.0, "", "advantages see no further than a few tokens"),
    "temperature": (0.1, 2.0, "answers are noise", "every answer is the likeliest, and nothing is tried"),
    "top_p": (0.3, 1.0, "", "every answer is nearly the likeliest, and hardly anything is tried"),
    "kl_target": (0.05, 100.0, "nothing holds the policy to its start", "the policy can hardly move"),
}
"""Least, most, what is beyond the most, and what is under the least."""

LARGEST = 0.2
"""The proportional error that adapts the coefficient, at most (Ziegler 2019, section 2.2)."""

STEEP = 0.4
"""A rollout of more than horizon / 0.4 answers is told, which changes the coefficient by half and more; Ziegler's 512
answers with a horizon of 10,000 change it by 1 %."""


@check("PPO015", title="the settings of PPO are in their ranges", severity="warning", methods=("ppo",))
def ppo_setting_out_of_range(at: AtRecipe) -> Iterator[Finding]:
    """Tell each setting that is out of its range."""
    for name, (least, most, beyond, under) in RANGES.items():
        value = at.recipe.training[name]
        if value is None or least <= value <= most:
            continue
        why = beyond if value > most else under
        key = f"training.{name}"
        yield Finding(
            f"{key} is {value:g}: {why}; {_show(least, most)} is what works.",
            f"Set {key} to a value of {_show(least, most)}, or leave it out.",
            at.where(key),
        )
    yield from _judge_horizon(at)


def _show(least: float, most: float) -> str:
    return f"{least:g} or more" if math.isinf(most) else f"{least:g} to {most:g}"


def _judge_horizon(at: AtRecipe) -> Iterator[Finding]:
    """The coefficient changes by a factor of 1 ± 0.2 × answers / horizon with each rollout."""
    training = at.recipe.training
    answers = training["per_device_train_batch_size"] * training["gradient_accumulation_steps"]
    answers *= training["num_mini_batches"] * (at.recipe.launch.processes or 1)
    if training["kl_target"] is not None and STEEP * answers > training["kl_horizon"]:
        yield Finding(
            f"training.kl_horizon is {training['kl_horizon']} and a rollout has {answers} answers: kl_coef changes by "
            f"{LARGEST * answers / training['kl_horizon']:.0%} with each rollout.",
            "Leave training.kl_horizon out: 10000 answers is what works.",
            at.where("training.kl_horizon"),
        )


@ppo_setting_out_of_range.fault
def clipping_is_a_percentage(world: World) -> None:
    world.recipe["training"]["cliprange"] = 20.0


@ppo_setting_out_of_range.fault
def a_rollout_is_trained_on_a_hundred_times(world: World) -> None:
    world.recipe["training"]["num_ppo_epochs"] = 100


@ppo_setting_out_of_range.fault
def answers_are_noise(world: World) -> None:
    world.recipe["training"]["temperature"] = 10.0


@ppo_setting_out_of_range.fault
def the_target_is_no_sum_of_nats(world: World) -> None:
    world.recipe["training"]["kl_target"] = 10_000.0


@ppo_setting_out_of_range.fault
def answers_are_paid_for_being_cut_off(world: World) -> None:
    world.recipe["training"]["missing_eos_penalty"] = -1.0


@ppo_setting_out_of_range.fault
def values_may_not_move(world: World) -> None:
    world.recipe["training"]["cliprange_value"] = 1e-5


@ppo_setting_out_of_range.fault
def the_coefficient_is_thrown_about(world: World) -> None:
    world.recipe["training"] |= {"kl_target": 6.0, "kl_horizon": 1}
