"""The value model shares weights with the policy, the reference or a reward model.

Symptom: each update of the one undoes a part of the other; values and answers swing, or a reward drifts while it
is being climbed.
Cause: the same object was given twice, a shallow copy, or a value model and a reward model of one load.
Fix: load the value model by itself: `value.path` in the recipe always does.
Source: LLaMA-Factory#4379; separate networks in Ziegler 2019's successors (arXiv 2009.01325, section 3.4).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.parameters import group_names, names_sharing
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("PPO005", title="the value model is a network of its own", methods=("ppo",))
def value_shares_weights(at: AtModel) -> Iterator[Finding]:
    """Compare the memory that the networks lie in."""
    trainer: Any = at.trainer
    others = {"policy": trainer.model.policy}
    if trainer.reference is not None:
        others["reference"] = trainer.reference
    others |= {f"reward model {one.name}": one.model for one in trainer.reward.models}
    named = list(trainer.model.value.named_parameters())
    for other, network in others.items():
        shared = names_sharing(named, network.parameters())
        if shared:
            yield Finding(
                f"{len(shared)} of {len(named)} tensors of the value model lie in the memory of the {other}.",
                "Load the value model by itself, or copy it with deepcopy.",
                at.where("value"),
                evidence=group_names(shared),
            )


@value_shares_weights.fault
def the_trunk_is_the_policys(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        trainer: Any = at.trainer
        trainer.model.value.model = trainer.model.policy.model
        return at

    world.after(AtModel, damage)


@value_shares_weights.fault
def one_layer_is_the_references(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        trainer: Any = at.trainer
        trainer.model.value.model.layers[0] = trainer.reference.model.layers[0]
        return at

    world.after(AtModel, damage)
