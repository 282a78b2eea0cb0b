"""Other parameters are trainable than the recipe asks for.

Symptom: with full fine-tuning, parts of the model keep their old behaviour; with LoRA, base weights change that
the saved adapter does not hold, so that the reloaded model is another one.
Cause: weights were frozen or thawed after loading, by remote code, a callback or a plugin.
Fix: remove what changes `requires_grad`; to train modules whole beside LoRA, name them under
`model.lora.modules_to_save`.
Source: axolotl#1686, axolotl#3416. Frozen parts of less than 1 % are a warning: some models freeze tables of
positions themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.parameters import count_elements, group_names, is_adapter
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    from ftrun.checks.testing import World

SMALL = 0.01


@check("MODEL011", title="exactly what the recipe asks for is trainable")
def trainable_set_not_asked_for(at: AtModel) -> Iterator[Finding]:
    trained, total = count_elements(at.model)
    if not trained:
        raise NotApplicable("nothing is trainable")
    lora = at.recipe.model.lora
    if lora is None:
        frozen = [name for name, p in at.model.named_parameters() if not p.requires_grad]
        if frozen:
            yield Finding(
                message=f"Every weight is to be trained (no model.lora), and {len(frozen)} tensors with "
                f"{1 - trained / total:.1%} of all weights are frozen.",
                fix="Remove what freezes them, or train adapters with model.lora.",
                where=at.where("model"),
                evidence=group_names(frozen),
                severity="error" if total - trained > SMALL * total else "warning",
            )
        return
    biases = lora.get("bias", "none") != "none"
    thawed = [
        name
        for name, p in at.model.named_parameters()
        if p.requires_grad and not is_adapter(name) and not (biases and name.endswith("bias"))
    ]
    if thawed:
        yield Finding(
            message=f"LoRA is to train adapters alone, and {len(thawed)} tensors of the base are trainable. The "
            "saved adapter will not hold them.",
            fix="Remove what thaws them, or name their modules under model.lora.modules_to_save.",
            where=at.where("model.lora"),
            evidence=group_names(thawed),
        )


@trainable_set_not_asked_for.fault
def lower_half_is_frozen(world: World) -> None:
    def freeze(at: AtModel) -> AtModel:
        at.model.model.layers[:1].requires_grad_(False)
        return at

    world.after(AtModel, freeze)


@trainable_set_not_asked_for.fault
def base_is_thawed(world: World) -> None:
    def thaw(at: AtModel) -> AtModel:
        at.model.get_base_model().lm_head.requires_grad_(True)
        return at

    world.recipe["model"]["lora"] = {"r": 8, "target_modules": "all-linear"}
    world.after(AtModel, thaw)
