"""The reference of PPO, which is the policy's start, is not frozen.

Symptom: KL stays near 0 while the answers change, since the reference follows the policy; or it jumps between
rollouts without a step, since dropout is on in it.
Cause: its weights are in the optimizer, lie in the memory of the policy, or the copy was left in training mode; with
LoRA, weights below the adapters train.
Fix: leave the reference as the trainer makes it: a copy in evaluation mode without gradients, or adapters off.
Source: trl#703, trl#2057.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.parameters import group_names, is_adapter, names_sharing
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    from ftrun.checks.testing import World

FIX = "Leave the reference as the trainer makes it: a copy in evaluation mode, without gradients."


@check("PPO007", title="the reference is frozen and a model of its own", methods=("ppo",))
def start_not_frozen(at: AtModel) -> Iterator[Finding]:
    """Look at gradients, memory and mode of the reference."""
    trainer: Any = at.trainer
    named = dict(trainer.model.policy.named_parameters())
    if trainer.reference is None:
        below = [name for name, p in named.items() if p.requires_grad and not is_adapter(name)]
        if below:
            yield Finding(
                f"{len(below)} tensors below the adapters train, and the reference is the model without them.",
                "Train adapters alone: remove what keeps these weights trainable.",
                at.where("model.lora"),
                evidence=group_names(below),
            )
        return
    reference = dict(trainer.reference.named_parameters())
    trains = [name for name, p in reference.items() if p.requires_grad]
    if trains:
        yield Finding(
            f"{len(trains)} of {len(reference)} tensors of the reference are trainable.",
            FIX,
            at.where("model"),
            evidence=group_names(trains),
        )
    shared = names_sharing(reference.items(), (p for p in named.values() if p.requires_grad))
    if shared:
        yield Finding(
            f"{len(shared)} of {len(reference)} tensors of the reference lie in the memory of the policy.",
            FIX,
            at.where("model"),
            evidence=group_names(shared),
        )
    if any(module.training for module in trainer.reference.modules()):
        yield Finding("The reference is in training mode, dropout included.", FIX, at.where("model"))


@start_not_frozen.fault
def the_reference_trains(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        trainer: Any = at.trainer
        trainer.reference.requires_grad_(True)
        return at

    world.after(AtModel, damage)


@start_not_frozen.fault
def the_reference_is_the_policy(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        trainer: Any = at.trainer
        trainer.reference.model.layers[0] = trainer.model.policy.model.layers[0]
        return at

    world.after(AtModel, damage)


@start_not_frozen.fault
def the_reference_is_in_training_mode(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        trainer: Any = at.trainer
        trainer.reference.train()
        return at

    world.after(AtModel, damage)


@start_not_frozen.fault
def the_base_trains_under_the_adapters(world: World) -> None:
    world.recipe["model"]["lora"] = {"r": 4, "target_modules": "all-linear"}

    def damage(at: AtModel) -> AtModel:
        trainer: Any = at.trainer
        trainer.model.policy.get_base_model().lm_head.requires_grad_(True)
        return at

    world.after(AtModel, damage)
