"""The reference of DPO is not frozen.

Symptom: KL(policy‖reference) stays near 0 while both models drift from where they began, or memory runs out.
Cause: a reference that was loaded like any model: its weights require gradients, or the optimizer holds them.
Fix: load it with `requires_grad_(False)` and make the optimizer from the policy alone.
Prevention: compare digests of the reference's weights before and after a run.
Source: point 5 of the ten most frequent mistakes in the checklist that ftrun automates; trl#2057.
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


@check("DPO007", title="the reference is frozen", methods=("dpo",))
def reference_not_frozen(at: AtModel) -> Iterator[Finding]:
    reference = own_reference(at.trainer)
    held = {id(p) for group in at.trainer.optimizer.param_groups for p in group["params"]}
    named = list(reference.named_parameters())
    for names, told in (
        ([name for name, p in named if p.requires_grad], "require gradients"),
        ([name for name, p in named if id(p) in held], "are held by the optimizer"),
    ):
        if names:
            yield Finding(
                f"{len(names)} of {len(named)} tensors of the reference {told}: it is not frozen.",
                "Freeze the reference (requires_grad_(False)), and make the optimizer from the policy alone.",
                at.where("model"),
                evidence=group_names(names),
            )


@reference_not_frozen.fault
def the_reference_requires_gradients(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        at.trainer.ref_model.requires_grad_(True)
        return at

    world.after(AtModel, damage)


@reference_not_frozen.fault
def the_optimizer_holds_the_reference(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        weight = at.trainer.ref_model.get_output_embeddings().weight
        at.trainer.optimizer.param_groups[0]["params"].append(weight)
        return at

    world.after(AtModel, damage)
