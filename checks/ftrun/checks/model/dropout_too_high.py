"""Dropout leaves little of what the model computes.

Symptom: the loss is noisy and stays high while training, and is far lower in evaluation.
Cause: a rate that was meant as what is kept, 0.9 for 0.1; or a configuration of a model that was trained from nothing.
Fix: set `model.lora.lora_dropout` to 0.05, or the rate in `training.model_init_kwargs` to what the model came with.
Source: rates of 0 to 0.1 in the papers of LoRA (arXiv 2106.09685) and of current models; 0.5 in the paper of dropout,
for networks trained from nothing (Srivastava 2014). From 0.5 on is a warning, from 0.9 on an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.parameters import group_names
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    from ftrun.checks.testing import World

MOST, NEARLY_ALL = 0.5, 0.9


@check("MODEL031", title="dropout leaves most of what the model computes", severity="warning")
def dropout_too_high(at: AtModel) -> Iterator[Finding]:
    import torch

    rates = {
        name: float(getattr(module, "p", None) or getattr(module, "attention_dropout", 0.0) or 0.0)
        for name, module in at.model.named_modules()
        if isinstance(module, torch.nn.Dropout)
        or isinstance(getattr(module, "attention_dropout", None), float)
    }
    high = {name: rate for name, rate in rates.items() if rate >= MOST}
    if not high:
        return
    adapters = all("lora_dropout" in name for name in high)
    key = "model.lora.lora_dropout" if adapters else "training.model_init_kwargs"
    yield Finding(
        message=f"{len(high)} modules drop {max(high.values()):.0%} of what they are given; 0 to 10% is usual.",
        fix=f"Lower {key}."
        if adapters
        else "Set the rate of dropout in training.model_init_kwargs to 0.0 or 0.1.",
        where=at.where(key),
        evidence=group_names(high),
        severity="error" if max(high.values()) >= NEARLY_ALL else "warning",
    )


@dropout_too_high.fault
def adapters_keep_a_twentieth(world: World) -> None:
    world.recipe["model"]["lora"] = {"r": 8, "target_modules": "all-linear", "lora_dropout": 0.95}


@dropout_too_high.fault
def attention_keeps_a_tenth(world: World) -> None:
    world.recipe["training"]["model_init_kwargs"] = {"attention_dropout": 0.9}
