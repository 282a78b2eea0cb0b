"""Adapters hold more numbers than the weights that they change.

Symptom: LoRA takes more memory and time than training all weights, and does no more.
Cause: a rank that was copied from a larger model, or the numbers of rank and alpha exchanged.
Fix: lower `model.lora.r` to 8 to 64, or leave out `model.lora` to train the weights themselves.
Source: a matrix of n × m has a rank of at most min(n, m); beyond it, A and B say nothing that a smaller rank does not
(arXiv 2106.09685). Told from twice that rank on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.parameters import adapter_layers, group_names
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("MODEL032", title="the rank of adapters is one that the weights can have", severity="warning")
def adapters_larger_than_weights(at: AtModel) -> Iterator[Finding]:
    if at.recipe.model.lora is None:
        raise NotApplicable("no LoRA")
    import torch

    ranks = [
        (name, max(layer.r.values()), min(base.in_features, base.out_features))
        for name, layer in adapter_layers(at.model)
        if isinstance(base := layer.get_base_layer(), torch.nn.Linear)
    ]
    beyond = [(name, rank, most) for name, rank, most in ranks if rank > 2 * most]
    # A narrow projection among wide ones is beyond a rank that is right for the others.
    if not beyond or len(beyond) <= len(ranks) / 2:
        return
    name, rank, most = beyond[0]
    yield Finding(
        message=f"The rank of {len(beyond)} of {len(ranks)} adapters is beyond that of the weights they change: {rank} "
        f"for {name}, whose rank is at most {most}.",
        fix="Lower model.lora.r to 8 to 64, or leave out model.lora to train the weights themselves.",
        where=at.where("model.lora.r"),
        evidence=group_names(name for name, _, _ in beyond),
    )


@adapters_larger_than_weights.fault
def a_rank_of_thousands(world: World) -> None:
    world.recipe["model"]["lora"] = {"r": 2048, "lora_alpha": 16, "target_modules": "all-linear"}
