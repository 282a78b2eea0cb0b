"""The reference of DPO is in training mode.

Symptom: rewards and margins are noise from the first step, and differ between two runs over the same rows.
Cause: `train()` was called on the reference: its dropout, where it has any, changes its log-probabilities at every
forward pass.
Fix: call `eval()` on the reference.
Source: the reference of DPO is a fixed distribution (arXiv 2305.18290, section 4).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.parameters import group_names
from ftrun.checks.reference import own_reference
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("DPO008", title="the reference is in evaluation mode", methods=("dpo",))
def reference_in_train_mode(at: AtModel) -> Iterator[Finding]:
    modules = list(own_reference(at.trainer).named_modules())
    training = [name for name, module in modules if module.training]
    if training:
        yield Finding(
            f"{len(training)} of {len(modules)} modules of the reference are in training mode.",
            "Call eval() on the reference once it is loaded, and train() on the policy alone.",
            at.where("model"),
            evidence=group_names(name for name in training if name),
        )


@reference_in_train_mode.fault
def both_models_were_put_into_training_mode(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        at.trainer.ref_model.train()
        return at

    world.after(AtModel, damage)
