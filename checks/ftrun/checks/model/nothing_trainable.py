"""Nothing is trainable, or next to nothing.

Symptom: the loss stays where it is; with no trainable parameter at all, the backward pass raises `element 0 of
tensors does not require grad`.
Cause: the weights were frozen: an adapter was loaded for inference, a list of names to train matches
nothing, or adapters were wrapped twice.
Fix: remove what freezes the weights, or set `model.lora` so that adapters are trained.
Prevention: look at the count of trainable parameters that `ftrun preflight` prints.
Source: axolotl#1686, axolotl#3416, peft#282, trl#363. Without adapters a share under 0.05 % trains norms or
biases at most.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.parameters import count_elements, group_names
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    from ftrun.checks.testing import World

SMALL = 0.0005


@check("MODEL002", title="there are trainable parameters")
def nothing_trainable(at: AtModel) -> Iterator[Finding]:
    trained, total = count_elements(at.model)
    lora = at.recipe.model.lora is not None
    if trained and (lora or trained >= SMALL * total):
        return
    yield Finding(
        message=f"{trained:,} of {total:,} parameters are trainable ({trained / max(total, 1):.4%}).",
        fix="Load the model unfrozen, or let adapters train with model.lora.",
        where=at.where("model.lora" if lora else "model"),
        evidence=group_names(name for name, p in at.model.named_parameters() if p.requires_grad),
    )


@nothing_trainable.fault
def every_weight_is_frozen(world: World) -> None:
    def freeze(at: AtModel) -> AtModel:
        at.model.requires_grad_(False)
        return at

    world.after(AtModel, freeze)


@nothing_trainable.fault
def one_norm_is_left(world: World) -> None:
    def freeze(at: AtModel) -> AtModel:
        at.model.requires_grad_(False)
        at.model.model.norm.requires_grad_(True)
        return at

    world.after(AtModel, freeze)


@nothing_trainable.fault
def adapters_are_frozen(world: World) -> None:
    world.recipe["model"]["lora"] = {"r": 8, "target_modules": "all-linear"}
    every_weight_is_frozen(world)
