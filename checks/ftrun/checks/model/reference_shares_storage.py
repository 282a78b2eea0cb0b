"""The reference of DPO shares memory with the weights that train.

Symptom: the loss stays at ln 2 and all margins at 0, although gradients look alive (a norm of 1.4 was seen): each
step moves the reference along.
Cause: a shallow copy (`copy.copy`), `load_state_dict(…, assign=True)`, or layers that both models were given.
Fix: load the reference anew, or copy it with `deepcopy`.
Prevention: sharing frozen layers is fine, and saves memory; sharing what trains is not.
Source: trl#703, trl#2057, trl#6053.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.parameters import group_names, names_sharing
from ftrun.checks.reference import own_reference
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("DPO009", title="the reference has weights of its own", methods=("dpo",))
def reference_shares_storage(at: AtModel) -> Iterator[Finding]:
    reference = own_reference(at.trainer)
    if at.trainer.is_fsdp_enabled:
        raise NotApplicable("the reference is divided among processes, which copies it")
    named = list(reference.named_parameters())
    shared = names_sharing(named, (p for p in at.model.parameters() if p.requires_grad))
    if shared:
        yield Finding(
            f"{len(shared)} of {len(named)} tensors of the reference lie in the memory of weights that train: "
            "the reference moves with the policy, and the loss stays where it is.",
            "Load the reference anew, or copy it with deepcopy.",
            at.where("model"),
            evidence=group_names(shared),
        )


@reference_shares_storage.fault
def weights_are_assigned_and_not_copied(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        at.trainer.ref_model.load_state_dict(at.model.state_dict(), assign=True)
        at.trainer.ref_model.requires_grad_(False)
        return at

    world.after(AtModel, damage)


@reference_shares_storage.fault
def one_layer_is_shared(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        at.trainer.ref_model.model.layers[0] = at.model.model.layers[0]
        return at

    world.after(AtModel, damage)
