"""Adapters have no effect, or another strength than the recipe's.

Symptom: with a scale of zero the loss is flat and every gradient is exactly zero; with a wrong one the same
learning rate does too little or too much.
Cause: `lora_alpha: 0`, or the scale was reset after the adapters were made.
Fix: set `model.lora.lora_alpha`, usually r or 2 r.
Source: peft#2775, axolotl#1445. The scale is alpha / r (arXiv 2106.09685), with `use_rslora` alpha / √r
(arXiv 2312.03732): 1/4 to 8 in what is published. Told as a warning is one below 1/128 or above 32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.parameters import adapter_layers, group_names
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    from ftrun.checks.testing import World


FAINT, STRONG = 1 / 128, 32.0


@check("MODEL010", title="adapters have the strength that the recipe gives them")
def lora_scaling_zero(at: AtModel) -> Iterator[Finding]:
    lora = at.recipe.model.lora
    if lora is None:
        raise NotApplicable("no LoRA")
    zero: list[str] = []
    other: list[str] = []
    unusual: dict[str, float] = {}
    for name, layer in adapter_layers(at.model):
        for adapter, scale in getattr(layer, "scaling", {}).items():
            rank = layer.r[adapter]
            expected = layer.lora_alpha[adapter] / (math.sqrt(rank) if lora.get("use_rslora") else rank)
            if scale == 0:
                zero.append(name)
            elif not math.isclose(scale, expected, rel_tol=1e-6):
                other.append(f"{name}: {scale:g}, expected {expected:g}")
            elif not FAINT <= abs(scale) <= STRONG:
                unusual[name] = scale
    if zero:
        rank = lora.get("r") or 8
        yield Finding(
            message=f"{len(zero)} adapters are multiplied by 0: they have no effect and no gradient.",
            fix=f"Set model.lora.lora_alpha to {2 * rank}, twice the rank.",
            where=at.where("model.lora.lora_alpha"),
            evidence=group_names(zero),
            patch=Patch("model.lora.lora_alpha", 2 * rank),
        )
    if unusual:
        scale = next(iter(unusual.values()))
        root = "√" if lora.get("use_rslora") else ""
        yield Finding(
            message=f"{len(unusual)} adapters are multiplied by {scale:.3g}, which is lora_alpha / {root}r; 1 or 2 is "
            "usual.",
            fix="Set model.lora.lora_alpha to r or 2 r, with use_rslora to √r or 2 √r.",
            where=at.where("model.lora.lora_alpha"),
            evidence=group_names(unusual),
            severity="warning",
        )
    if other:
        yield Finding(
            message=f"{len(other)} adapters have another scale than lora_alpha and r give.",
            fix="Set the strength of adapters by model.lora.lora_alpha alone.",
            where=at.where("model.lora.lora_alpha"),
            evidence=tuple(other[:5]),
        )


@lora_scaling_zero.fault
def alpha_is_zero(world: World) -> None:
    world.recipe["model"]["lora"] = {"r": 8, "lora_alpha": 0, "target_modules": "all-linear"}


@lora_scaling_zero.fault
def alpha_was_meant_for_another_rank(world: World) -> None:
    world.recipe["model"]["lora"] = {"r": 8, "lora_alpha": 2048, "target_modules": "all-linear"}


@lora_scaling_zero.fault
def scale_is_reset(world: World) -> None:
    def reset(at: AtModel) -> AtModel:
        for _, layer in adapter_layers(at.model):
            layer.scaling["default"] = 1.0
        return at

    world.recipe["model"]["lora"] = {"r": 8, "lora_alpha": 32, "target_modules": "all-linear"}
    world.after(AtModel, reset)
