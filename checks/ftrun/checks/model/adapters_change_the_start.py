"""Adapters change the model before they are trained.

Symptom: training begins with a loss above that of the base, and the model has lost a part of what it knew.
Cause: `init_lora_weights: false`, which draws both halves of an adapter at random and is for tests of PEFT; or
adapters of another run that were loaded in their place.
Fix: leave `model.lora.init_lora_weights` out, or name a way that begins at the base (gaussian, pissa, olora, eva).
Prevention: compare the first loss with that of the base.
Source: documentation of PEFT's LoraConfig. A is drawn and B is 0, so that their product is 0 (arXiv 2106.09685);
ways that take a part out of the base put it into the adapter, and are not judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.parameters import adapter_layers
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    from ftrun.checks.testing import World

KEY = "model.lora.init_lora_weights"
BEGIN_AT_THE_BASE = (True, False, "gaussian", "eva")
"""Ways to begin with the base as it is, or, for `false`, with noise on it."""


@check("MODEL027", title="adapters begin as no change", methods=("sft", "reward"))
def adapters_change_the_start(at: AtModel) -> Iterator[Finding]:
    if at.recipe.model.lora is None:
        raise NotApplicable("the recipe trains no adapters")
    way = at.recipe.model.lora.get("init_lora_weights", True)
    if way not in BEGIN_AT_THE_BASE:
        raise NotApplicable(f"init_lora_weights is {way}, which changes the base as well")
    layers = list(adapter_layers(at.model))
    changing = [
        name
        for name, layer in layers
        for half in ("lora_B", "lora_embedding_A")  # of an embedding PEFT draws B
        for part in dict(getattr(layer, half, {})).values()
        if bool((part.weight if hasattr(part, "weight") else part).any())
    ]
    if changing:
        yield Finding(
            message=f"{len(changing)} of {len(layers)} adapters change the model before the first step: the "
            "half that should be 0 is not.",
            fix=f"Remove {KEY}."
            if way is False
            else "Begin with fresh adapters, or from the folder of the adapter that is to go on.",
            where=at.where(KEY if way is False else "model.lora"),
            evidence=tuple(changing[:3]),
            patch=Patch(KEY, True) if way is False else None,
        )


@adapters_change_the_start.fault
def both_halves_are_drawn(world: World) -> None:
    world.recipe["model"]["lora"] = {"r": 8, "target_modules": "all-linear", "init_lora_weights": False}
