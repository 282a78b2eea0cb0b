"""The forward pass fails on the first batch.

Symptom: training ends in its first step.
Cause: memory that does not hold the batch, ids beyond the embedding, weights and inputs on different devices or
of different types.
Fix: the finding says what the error most often means.
Prevention: run `ftrun preflight` where the run will be.
Source: axolotl#2257, trl#3763 (ids beyond the embedding).
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


@check("TRAIN013", title="a forward pass works")
def forward_pass_fails(at: AtStep) -> Iterator[Finding]:
    yield from tell_failure(
        at, "forward", "Correct what the message names; the model takes the batch shown below."
    )


@forward_pass_fails.fault
def embedding_is_cut(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        import torch

        embedding = at.model.get_input_embeddings()
        embedding.weight = torch.nn.Parameter(embedding.weight.detach()[:8].clone())
        return at

    world.after(AtModel, damage)


@forward_pass_fails.fault
def memory_does_not_hold_the_batch(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        import torch

        def allocate(*_: object) -> None:
            torch.empty(2**60, dtype=torch.uint8)

        at.model.get_output_embeddings().register_forward_pre_hook(allocate)
        at.model.get_input_embeddings().register_forward_pre_hook(allocate)
        return at

    world.after(AtModel, damage)
