"""The optimizer step fails.

Symptom: training ends in its first step, after the backward pass.
Cause: no memory for the optimizer's state (AdamW keeps two numbers for each trained weight), weights in float16
under a loss scaler, or settings that the optimizer does not take.
Fix: the finding says what the error most often means; `training.optim: adamw_8bit` or `model.lora` need less
memory for state.
Source: torch's GradScaler refuses float16 gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.dry_step import tell_failure
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtModel, AtStep

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("TRAIN015", title="an optimizer step works")
def optimizer_step_fails(at: AtStep) -> Iterator[Finding]:
    yield from tell_failure(
        at, "update", "Correct what the message names, or choose another optimizer with training.optim."
    )


@optimizer_step_fails.fault
def moments_are_missing(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        for group in at.trainer.optimizer.param_groups:
            group["betas"] = (0.9, None)
        return at

    world.after(AtModel, damage)
