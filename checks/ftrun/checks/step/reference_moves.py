"""An optimizer step changes the reference of DPO.

Symptom: margins and KL stay near 0 while both models drift; what the policy is held to is lost.
Cause: the optimizer holds weights of the reference, or weights are in the memory of both models. With LoRA the
reference is the model with its adapters off: what trains beside them (`bias: all`, an unfrozen norm) stays on.
Fix: freeze the reference, make the optimizer from the policy alone, and load the reference anew; with LoRA train
nothing but adapters and whole modules under `modules_to_save`.
Prevention: the same is seen in the digest of the reference before and after a run.
Source: the invariant that nothing outside of the optimizer's parameters changes (TrainCheck, OSDI 2025); trl#703.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.dry_step import known
from ftrun.checks.finding import Finding
from ftrun.checks.parameters import group_names, is_adapter
from ftrun.checks.reference import own_reference
from ftrun.checks.stages import AtModel, AtStep

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("DPO013", title="a step leaves the reference as it is", methods=("dpo",))
def reference_moves(at: AtStep) -> Iterator[Finding]:
    if at.trainer.ref_model is None and at.recipe.model.lora is not None:
        yield from _judge_base(at)
        return
    count = sum(1 for _ in own_reference(at.trainer).parameters())
    changed = known(at.step.reference_changed, at)
    if changed:
        yield Finding(
            f"{len(changed)} of {count} tensors of the reference changed in one optimizer step.",
            "Freeze the reference, load it apart from the policy, and make the optimizer from the policy alone.",
            at.where("model"),
            evidence=group_names(changed),
        )


def _judge_base(at: AtStep) -> Iterator[Finding]:
    """With adapters off, all that is not an adapter is the reference."""
    moved = [name for name in known(at.step.changed, at) if not is_adapter(name)]
    if moved:
        bias = (at.recipe.model.lora or {}).get("bias", "none")
        yield Finding(
            f"{len(moved)} tensors changed in one optimizer step that turning the adapters off does not undo: the "
            "reference moves with the policy.",
            "Set model.lora.bias to none."
            if bias != "none"
            else "Train nothing but adapters and modules_to_save.",
            at.where("model.lora.bias" if bias != "none" else "model.lora"),
            evidence=group_names(moved),
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


@reference_moves.fault
def norms_train_beside_the_adapters(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        norms = [p for name, p in at.model.named_parameters() if "norm" in name]
        for norm in norms:
            norm.requires_grad_(True)
        at.trainer.optimizer.add_param_group({"params": norms})
        return at

    world.recipe["model"]["lora"] = {"r": 8, "target_modules": "all-linear"}
    world.after(AtModel, damage)
