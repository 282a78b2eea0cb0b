"""Trainable parameters receive no gradient.

Symptom: parts of the model never change; with LoRA, only the adapters of the last layers learn, or none.
Cause: checkpointing cuts the graph below the first layer whose input needs a gradient, a branch of the model is
not used, or weights were replaced after they were used.
Fix: set `training.gradient_checkpointing_kwargs: {use_reentrant: false}`; freeze or leave out parts that the
batch never uses.
Source: peft#1142, transformers#42489, trl#3785. Half of the trained weights without a gradient is an error;
less a warning, since parts for other inputs (images) may rest. Experts that no token chose are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.dry_step import known
from ftrun.checks.finding import Finding
from ftrun.checks.parameters import group_names
from ftrun.checks.stages import AtModel, AtStep

if TYPE_CHECKING:
    from ftrun.checks.testing import World

MANY = 0.5
EXPERT = re.compile(r"\.experts\.\d+\.")


@check("TRAIN017", title="every trainable parameter receives a gradient")
def gradient_missing(at: AtStep) -> Iterator[Finding]:
    gradients = known(at.step.gradients, at)
    none = [name for name, norm in gradients.items() if norm is None]
    missing = none if len(none) == len(gradients) else [name for name in none if not EXPERT.search(name)]
    if not missing:
        return
    sizes = {name: p.numel() for name, p in at.trainer.model.named_parameters() if name in gradients}
    share = sum(sizes[name] for name in missing) / sum(sizes.values())
    yield Finding(
        message=f"{len(missing)} of {len(gradients)} trainable tensors, {share:.1%} of the trained weights, receive "
        "no gradient.",
        fix="Set training.gradient_checkpointing_kwargs to {use_reentrant: false}, or freeze what is not used.",
        where=at.where(
            "training.gradient_checkpointing" if at.trainer.args.gradient_checkpointing else "model"
        ),
        evidence=group_names(missing),
        severity="error" if share >= MANY else "warning",
    )


@gradient_missing.fault
def graph_is_cut_before_the_last_layer(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        at.model.model.layers[-1].register_forward_pre_hook(lambda module, inputs: (inputs[0].detach(),))
        return at

    world.after(AtModel, damage)


@gradient_missing.fault
def a_branch_is_never_used(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        import torch

        at.model.unused = torch.nn.Linear(8, 8)
        at.trainer.optimizer.add_param_group({"params": list(at.model.unused.parameters())})
        return at

    world.after(AtModel, damage)
