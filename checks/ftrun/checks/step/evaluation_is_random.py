"""Two evaluations of the same rows give two losses.

Symptom: the evaluation loss jumps without a cause, and the best checkpoint is chosen by chance.
Cause: noise or dropout is active in evaluation: a hook for noise on the embeddings that was not removed, or dropout
that does not follow the model's mode.
Fix: remove the hook, or set the dropout of the model's configuration to 0 under `training.model_init_kwargs`.
Source: the loss of one batch, twice in evaluation; it is the same to the last bit on a CPU, and within 1e-4 (2e-2 in
half precision) anywhere. trl#1841 (noise left in evaluation).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtModel, AtStep
from ftrun.checks.trials import differ, made

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("TRAIN031", title="two evaluations of the same rows agree", methods=("sft",))
def evaluation_is_random(at: AtStep) -> Iterator[Finding]:
    first, second = made(at, "repeated")
    if differ(at, first, second):
        yield Finding(
            message=f"The first batch has a loss of {first:.6g} in evaluation, and {second:.6g} when asked again.",
            fix="Remove what is random in evaluation: hooks on the embeddings, or dropout outside of nn.Dropout.",
            where=at.where("model"),
        )


@evaluation_is_random.fault
def noise_is_left_on_the_embeddings(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        import torch

        embedding = at.model.get_input_embeddings()
        embedding.register_forward_hook(
            lambda module, inputs, output: output + torch.rand_like(output) * 0.01
        )
        return at

    world.recipe["training"]["neftune_noise_alpha"] = 5
    world.after(AtModel, damage)
