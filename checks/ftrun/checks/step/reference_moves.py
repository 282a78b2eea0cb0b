"""An optimizer step changes the reference of DPO.

Symptom: margins and KL stay near 0 while both models drift; what the policy is held to is lost.
Cause: the optimizer holds weights of the reference, or weights are in the memory of both models.
Fix: freeze the reference, make the optimizer from the policy alone, and load the reference anew.
Prevention: the same is seen in the digest of the reference before and after a run.
Source: the invariant that nothing outside of the optimizer's parameters changes (TrainCheck, OSDI 2025); trl#703.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.dry_step import known
from ftrun.checks.finding import Finding
from ftrun.checks.parameters import group_names
from ftrun.checks.reference import own_reference
from ftrun.checks.stages import AtModel, AtStep

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("DPO013", title="a step leaves the reference as it is", methods=("dpo",))
def reference_moves(at: AtStep) -> Iterator[Finding]:
    count = sum(1 for _ in own_reference(at.trainer).parameters())
    changed = known(at.step.reference_changed, at)
    if changed:
        yield Finding(
            f"{len(changed)} of {count} tensors of the reference changed in one optimizer step.",
            "Freeze the reference, load it apart from the policy, and make the optimizer from the policy alone.",
            at.where("model"),
            evidence=group_names(changed),
        )


@reference_moves.fault
def the_reference_follows_every_step(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        ours, theirs = at.model.get_output_embeddings(), at.trainer.ref_model.get_output_embeddings()
        at.trainer.optimizer.register_step_post_hook(lambda *_: theirs.weight.data.copy_(ours.weight.data))
        return at

    world.after(AtModel, damage)


@reference_moves.fault
def weights_lie_in_the_memory_of_both(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        at.trainer.ref_model.load_state_dict(at.model.state_dict(), assign=True)
        at.trainer.ref_model.requires_grad_(False)
        return at

    world.after(AtModel, damage)
