"""The optimizer does not hold the parameters that the model trains.

Symptom: steps run, the learning rate follows its schedule, and the loss does not move.
Cause: the optimizer was made before the weights were replaced (resized, wrapped, sharded, copied), or for a
subset of them.
Fix: make the optimizer after the model is complete; recipes without plugins leave that to the trainer.
Source: accelerate#2665, accelerate#3256, accelerate#3845.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.parameters import group_names, learning_rates
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("MODEL009", title="the optimizer holds exactly the trainable parameters")
def optimizer_holds_other_parameters(at: AtModel) -> Iterator[Finding]:
    trained = {id(p): name for name, p in at.trainer.model.named_parameters() if p.requires_grad}
    held = learning_rates(at.trainer.optimizer).keys()
    lost = [name for key, name in trained.items() if key not in held]
    strange = len(held - trained.keys())
    if not lost and not strange:
        return
    yield Finding(
        message=f"The optimizer lacks {len(lost)} of {len(trained)} trainable tensors and holds {strange} that the "
        "model does not train.",
        fix="Make the optimizer from the trainable parameters of the finished model.",
        where=at.where("training.optim"),
        evidence=group_names(lost),
    )


@optimizer_holds_other_parameters.fault
def optimizer_of_a_copy(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        from copy import deepcopy

        import torch

        at.trainer.optimizer = torch.optim.AdamW(deepcopy(at.model).parameters(), lr=1e-4)
        return at

    world.after(AtModel, damage)


@optimizer_holds_other_parameters.fault
def head_is_replaced_afterwards(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        import torch

        head = at.model.lm_head
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
        return at

    world.after(AtModel, damage)
