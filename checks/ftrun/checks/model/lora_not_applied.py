"""The model does not have the adapters that the recipe asks for.

Symptom: full fine-tuning happens where LoRA was meant, or the other way round; or adapters never change.
Cause: the adapters were lost or frozen after they were made, or `model.path` is the folder of an adapter, which
transformers loads over its base as a frozen one.
Fix: for an adapter folder, merge it first with PEFT's `merge_and_unload`, and train the merged model.
Source: peft#282, peft#1340, trl#4081 (adapters frozen by a second preparation).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.parameters import adapter_layers, group_names, is_adapter
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("MODEL003", title="LoRA is applied where the recipe asks for it, and nowhere else")
def lora_not_applied(at: AtModel) -> Iterator[Finding]:
    layers = [name for name, _ in adapter_layers(at.model)]
    if at.recipe.model.lora is None:
        if layers:
            yield Finding(
                message=f"The model carries adapters on {len(layers)} modules, and the recipe has no model.lora.",
                fix="Merge the adapter into its base (PEFT's `merge_and_unload`) and train that, or write model.lora.",
                where=at.where("model.path"),
                evidence=group_names(layers),
            )
        return
    if not layers:
        yield Finding(
            message="The recipe asks for LoRA, and no module of the model has an adapter.",
            fix="Remove what unloads or merges the adapters, or remove model.lora to train every weight.",
            where=at.where("model.lora"),
        )
        return
    adapters = [(name, p) for name, p in at.model.named_parameters() if is_adapter(name)]
    frozen = [name for name, p in adapters if not p.requires_grad]
    if frozen:
        yield Finding(
            message=f"{len(frozen)} of {len(adapters)} tensors of the adapters are frozen and will not be trained.",
            fix="Load the adapters with is_trainable=True, and do not prepare a model with adapters again.",
            where=at.where("model.lora"),
            evidence=group_names(frozen),
        )


@lora_not_applied.fault
def adapters_are_merged_away(world: World) -> None:
    from dataclasses import replace

    world.recipe["model"]["lora"] = {"r": 8, "target_modules": "all-linear"}
    world.after(AtModel, lambda at: replace(at, model=at.model.merge_and_unload()))


@lora_not_applied.fault
def adapters_of_one_kind_are_frozen(world: World) -> None:
    def freeze(at: AtModel) -> AtModel:
        for name, p in at.model.named_parameters():
            if "lora_B" in name:
                p.requires_grad_(False)
        return at

    world.recipe["model"]["lora"] = {"r": 8, "target_modules": "all-linear"}
    world.after(AtModel, freeze)


@lora_not_applied.fault
def an_adapter_where_none_is_asked_for(world: World) -> None:
    from dataclasses import replace

    def add(at: AtModel) -> AtModel:
        from peft import LoraConfig, get_peft_model

        return replace(at, model=get_peft_model(at.model, LoraConfig(target_modules="all-linear")))

    world.after(AtModel, add)
