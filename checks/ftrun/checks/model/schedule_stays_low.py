"""The learning rate of the planned schedule is far from what the recipe asks for.

Symptom: the loss hardly falls, or jumps, although the learning rate looks right in the recipe.
Cause: settings of the schedule (`lr_scheduler_kwargs`) that do not fit the number of steps: a decay that is over at
once, a start or an end in the wrong place.
Fix: leave `training.lr_scheduler_kwargs` out, or give steps that fit the run.
Prevention: `ftrun preflight` shows the steps of a run.
Source: the schedule that the trainer will follow, at up to 2,000 of its steps: told is one that never reaches half of
the rate (error), is under a hundredth of it for more than half of the run (warning), or climbs above 1.2 times the rate
(error), as a `min_lr` above it does; one that falls by half and ends at its peak again, as a cosine of whole cycles
does (warning); and one that falls and rises again, three times or more, within fewer than ten steps each (warning;
SGDR, arXiv 1608.03983, has cycles of an epoch or more). axolotl#3254.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import spread
from ftrun.checks.finding import Finding
from ftrun.checks.schedule import is_trial
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    from ftrun.checks.testing import World

HALF, NOTHING, ABOVE, AT_PEAK = 0.5, 1e-2, 1.2, 0.9
SAMPLE = 2000
SEVERAL, SHORT_CYCLE = 3, 10


@check("TRAIN038", title="the schedule reaches the learning rate and stays there")
def schedule_stays_low(at: AtModel) -> Iterator[Finding]:
    """Judge the factors by which the real schedule multiplies the learning rate."""
    shapes = getattr(at.trainer.lr_scheduler, "lr_lambdas", None)
    if not shapes:
        raise NotApplicable("the schedule depends on the evaluation, or is the optimizer's own")
    if at.steps == 1:
        raise NotApplicable("the run is one step")
    if is_trial(at):
        raise NotApplicable(f"a trial of {at.steps} steps")
    factors = [float(shapes[0](step)) for step in spread(at.steps, SAMPLE).tolist()]
    low = sum(factor < NOTHING for factor in factors) / len(factors)
    highest = max(factors)
    if math.isfinite(highest) and HALF <= highest <= ABOVE and low <= HALF:
        yield from _judge_cycles(at, factors)
        yield from _judge_end(at, factors, highest)
        return
    written = (
        "training.lr_scheduler_kwargs"
        if at.recipe.training["lr_scheduler_kwargs"]
        else "training.warmup_steps"
    )
    never, beyond = not highest >= HALF, highest > ABOVE
    yield Finding(
        message=f"Over the {at.steps} steps of the run, the schedule {at.recipe.training['lr_scheduler_type']} "
        + (
            f"reaches {highest:.1%} of training.learning_rate at most."
            if never
            else f"climbs to {highest:.3g} times training.learning_rate."
            if beyond
            else f"is under a hundredth of training.learning_rate for {low:.0%} of them."
        ),
        fix=f"Remove {written}, or give it steps that fit a run of {at.steps}.",
        where=at.where(written),
        severity="error" if never or beyond else "warning",
    )


def _judge_cycles(at: AtModel, factors: list[float]) -> Iterator[Finding]:
    """A rate that falls and rises again every few steps follows no schedule."""
    if len(factors) < at.steps:
        return  # a sample would show other cycles
    turns = sum(b < a and b < c for a, b, c in zip(factors, factors[1:], factors[2:], strict=False))
    if turns >= SEVERAL and turns * SHORT_CYCLE > at.steps:
        yield Finding(
            message=f"Over the {at.steps} steps of the run, the schedule "
            f"{at.recipe.training['lr_scheduler_type']} falls and "
            f"rises again {turns} times, every {at.steps / turns:.1f} steps.",
            fix="Give training.lr_scheduler_kwargs a num_cycles of 1 to 3, or remove it.",
            where=at.where("training.lr_scheduler_kwargs"),
            severity="warning",
        )


def _judge_end(at: AtModel, factors: list[float], highest: float) -> Iterator[Finding]:
    """A rate that has fallen is at its peak again when the run ends: what it was lowered for is undone."""
    since = factors[factors.index(highest) :]
    if min(since) < HALF * highest and since[-1] >= AT_PEAK * highest:
        yield Finding(
            message=f"Over the {at.steps} steps of the run, the schedule "
            f"{at.recipe.training['lr_scheduler_type']} falls to {min(since):.1%} of training.learning_rate and ends "
            f"at {since[-1]:.1%} of it.",
            fix="Remove num_cycles from training.lr_scheduler_kwargs, or set lr_scheduler_type: cosine_with_restarts.",
            where=at.where("training.lr_scheduler_kwargs"),
            severity="warning",
        )


@schedule_stays_low.fault
def the_run_ends_at_the_peak(world: World) -> None:
    world.recipe["training"] |= {
        "num_train_epochs": 8,
        "lr_scheduler_type": "cosine",
        "lr_scheduler_kwargs": {"num_cycles": 1},
    }


@schedule_stays_low.fault
def the_rate_starts_again_all_the_time(world: World) -> None:
    world.recipe["training"] |= {
        "num_train_epochs": 4,
        "lr_scheduler_type": "cosine_with_restarts",
        "lr_scheduler_kwargs": {"num_cycles": 12},
    }


@schedule_stays_low.fault
def decay_is_over_at_once(world: World) -> None:
    """A power that was meant to be 1."""
    world.recipe["training"] |= {
        "num_train_epochs": 4,
        "warmup_steps": 0,
        "lr_scheduler_type": "polynomial",
        "lr_scheduler_kwargs": {"power": 100},
    }


@schedule_stays_low.fault
def the_least_rate_is_above_the_rate(world: World) -> None:
    world.recipe["training"] |= {
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr": 1.0},
    }


@schedule_stays_low.fault
def schedule_was_made_for_a_longer_run(world: World) -> None:
    """The warmup of a scheduler that was made by hand."""

    def damage(at: AtModel) -> AtModel:
        from transformers import get_linear_schedule_with_warmup

        at.trainer.lr_scheduler = get_linear_schedule_with_warmup(at.trainer.optimizer, 1000, 10_000)
        return at

    world.after(AtModel, damage)
