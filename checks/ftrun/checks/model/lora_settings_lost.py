"""Adapters have another dropout, rank or form than the recipe gives them.

Symptom: training is noisier than it should be, or learns less than the same recipe elsewhere.
Cause: the adapters were changed after they were made, or made by something that has defaults of its own.
Fix: set what adapters are by `model.lora` alone. Where `training.disable_dropout` is true, as it is unless a recipe
of DPO, reward or PPO sets it, adapters have none whatever `lora_dropout` says.
Source: torchtune#995, axolotl#3806 (dropout applied that was set to 0).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.parameters import adapter_layers, group_names
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    from ftrun.checks.testing import World

RANK = 8
"""PEFT's own, where the recipe has none."""


@check("MODEL022", title="adapters are what the recipe says")
def lora_settings_lost(at: AtModel) -> Iterator[Finding]:
    lora = at.recipe.model.lora
    if lora is None:
        raise NotApplicable("no LoRA")
    if at.recipe.training.get("disable_dropout"):
        lora = {**lora, "lora_dropout": 0.0}
    wrong: dict[str, list[str]] = {}
    for name, layer in adapter_layers(at.model):
        if hasattr(layer, "parameter_name"):
            continue  # one adapter for the weights of all experts, whose rank is that of all together
        for setting, (asked, has) in _compare(lora, name, layer).items():
            if asked != has:
                wrong.setdefault(f"{setting} is {has:g}, and the recipe says {asked:g}", []).append(name)
    for told, names in wrong.items():
        setting = told.partition(" ")[0]
        yield Finding(
            message=f"On {len(names)} modules {told}.",
            fix=f"Remove what changes the adapters after they are made; set model.lora.{setting} alone.",
            where=at.where(f"model.lora.{setting}"),
            evidence=group_names(names),
        )


def _compare(lora: Mapping[str, Any], name: str, layer: Any) -> dict[str, tuple[float, float]]:
    """What the recipe asks of an adapter, and what it is; only what the layer has."""
    found: dict[str, tuple[float, float]] = {}
    asked = float(lora.get("lora_dropout") or 0.0)
    for dropout in getattr(layer, "lora_dropout", {}).values():
        # Adapters on embeddings and for single parameters have no dropout.
        if not getattr(layer, "lora_embedding_A", None) and hasattr(layer, "get_base_layer"):
            found["lora_dropout"] = (asked, float(getattr(dropout, "p", 0.0)))
    for rank in getattr(layer, "r", {}).values():
        found["r"] = (float(_rank(lora, name)), float(rank))
    return found


def _rank(lora: Mapping[str, Any], name: str) -> int:
    """The rank that PEFT gives a module: that of the first pattern that fits, else `r`."""
    for pattern, rank in (lora.get("rank_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return int(rank)
    return int(lora.get("r") or RANK)


@lora_settings_lost.fault
def dropout_that_nobody_asked_for(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        import torch

        for _, layer in adapter_layers(at.model):
            layer.lora_dropout["default"] = torch.nn.Dropout(0.5)
        return at

    world.recipe["model"]["lora"] = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}
    world.after(AtModel, damage)


@lora_settings_lost.fault
def dropout_that_is_lost(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        import torch

        for _, layer in adapter_layers(at.model):
            layer.lora_dropout["default"] = torch.nn.Identity()
        return at

    world.recipe["model"]["lora"] = {"r": 8, "lora_dropout": 0.1, "target_modules": "all-linear"}
    world.after(AtModel, damage)
