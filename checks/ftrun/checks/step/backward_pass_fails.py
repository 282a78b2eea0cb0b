"""The backward pass fails.

Symptom: training ends in its first step, with `does not require grad` or for lack of memory.
Cause: nothing on the way to the loss is trainable, checkpointing cuts the graph, or the activations fill the
memory.
Fix: the finding says what the error most often means.
Source: peft#137, peft#1142 (checkpointing with frozen embeddings), trl#363 (nothing to train).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.dry_step import tell_failure
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtModel, AtStep

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("TRAIN014", title="a backward pass works")
def backward_pass_fails(at: AtStep) -> Iterator[Finding]:
    yield from tell_failure(at, "backward", "Correct what the message names.")


@backward_pass_fails.fault
def nothing_requires_a_gradient(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        at.model.requires_grad_(False)
        return at

    world.after(AtModel, damage)


@backward_pass_fails.fault
def a_weight_changes_in_place(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        import torch

        def scale(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
            spoilt: torch.Tensor = torch.sigmoid(output)
            kept = spoilt * 1.0
            spoilt.mul_(2.0)
            return kept

        at.model.model.norm.register_forward_hook(scale)
        return at

    world.after(AtModel, damage)
