"""The reference follows the policy in a way that holds it to nothing, or never.

Symptom: with small steps or a large share, margins stay near 0 while the policy drifts without limit; with more
steps than the run has, the run is one with a fixed reference.
Cause: `ref_model_sync_steps` or `ref_model_mixup_alpha` of another length of run.
Fix: take about a tenth of the run for `training.ref_model_sync_steps` with `ref_model_mixup_alpha: 0.6`.
Prevention: train with a fixed reference first.
Source: TR-DPO (arXiv 2404.09656): α of 0.5 to 0.6 in soft updates, replacement every 256 to 512 steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.schedule import is_trial
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

FEW = 10
"""Steps between two updates below which the reference is a copy of the policy."""


@check("DPO005", title="a reference that moves holds the policy", methods=("dpo",))
def reference_sync_unfit(at: AtData) -> Iterator[Finding]:
    training = at.recipe.training
    if not training["sync_ref_model"]:
        raise NotApplicable("the reference does not move")
    share, steps = float(training["ref_model_mixup_alpha"]), int(training["ref_model_sync_steps"])
    if not 0 < share <= 1:
        yield Finding(
            f"training.ref_model_mixup_alpha is {share:g}: the reference takes a share of the policy, above 0 up to 1.",
            "Set training.ref_model_mixup_alpha to 0.6.",
            at.where("training.ref_model_mixup_alpha"),
        )
    if steps < 1:
        yield Finding(
            f"training.ref_model_sync_steps is {steps}; it counts steps, from 1.",
            "Set training.ref_model_sync_steps to about a tenth of the steps of the run.",
            at.where("training.ref_model_sync_steps"),
        )
    elif steps > at.steps and not is_trial(at):
        yield Finding(
            f"training.ref_model_sync_steps is {steps:,}, the run has {at.steps:,} steps: it never moves.",
            f"Set training.ref_model_sync_steps to {max(1, at.steps // 10)}, or training.sync_ref_model to false.",
            at.where("training.ref_model_sync_steps"),
            severity="warning",
        )
    elif steps < FEW and share >= 0.5 and not is_trial(at):
        yield Finding(
            f"The reference takes {share:.0%} of the policy every {steps} steps: it follows at once and holds nothing.",
            "Set training.ref_model_sync_steps to about a tenth of the steps of the run.",
            at.where("training.ref_model_sync_steps"),
            severity="warning",
        )


@reference_sync_unfit.fault
def it_never_comes_to_it(world: World) -> None:
    """512 steps are the default, and this run has 16."""
    world.recipe["training"]["sync_ref_model"] = True


@reference_sync_unfit.fault
def it_follows_at_every_step(world: World) -> None:
    """The reference is the policy of a step ago."""
    world.recipe["training"] |= {"sync_ref_model": True, "ref_model_sync_steps": 1}


@reference_sync_unfit.fault
def it_takes_more_than_all(world: World) -> None:
    """A share above 1 overshoots."""
    world.recipe["training"] |= {
        "sync_ref_model": True,
        "ref_model_sync_steps": 4,
        "ref_model_mixup_alpha": 6.0,
    }
