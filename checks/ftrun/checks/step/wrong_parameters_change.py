"""An optimizer step changes other parameters than it should.

Symptom: the loss does not move although every step runs; or a frozen base drifts.
Cause: the optimizer holds other tensors than the model, the learning rate is 0 or rounds away, or something beside
the optimizer writes to frozen weights.
Fix: make the optimizer after the model; raise `training.learning_rate`; remove what writes to frozen weights.
Prevention: the same is watched while training.
Source: the invariant that found accelerate#2665 in TrainCheck (OSDI 2025): a step changes every trainable
parameter and no other. Gradients under 10⁻⁷, ten times the usual ε of Adam, may change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.dry_step import known, need_trained_tokens
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.parameters import group_names
from ftrun.checks.stages import AtModel, AtStep

if TYPE_CHECKING:
    import torch

    from ftrun.checks.testing import World

SMALL = 1e-7
"""Root mean square of a tensor's gradient under which Adam's ε may keep it in place."""


@check("TRAIN019", title="a step changes the trainable parameters and no others")
def wrong_parameters_change(at: AtStep) -> Iterator[Finding]:
    changed, gradients = known(at.step.changed, at), known(at.step.gradients, at)
    trained = {name: p for name, p in at.trainer.model.named_parameters() if p.requires_grad}
    drifting = sorted(changed - trained.keys())
    if drifting:
        yield Finding(
            message=f"{len(drifting)} frozen tensors changed in one optimizer step.",
            fix="Remove what writes to frozen weights: an optimizer that holds them, a hook, or shared storage.",
            where=at.where("model"),
            evidence=group_names(drifting),
        )
    if not all(math.isfinite(norm) for norm in gradients.values() if norm is not None):
        raise NotApplicable("gradients are not finite, and the step is skipped or destroys the weights")
    need_trained_tokens(at)
    pushed = [name for name, p in trained.items() if _is_pushed(p, gradients, name)]
    still = [name for name in pushed if name not in changed]
    if not still:
        return
    if not changed & trained.keys():
        kinds = ", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in trained.values()}))
        yield Finding(
            message=f"No trainable tensor changed in one optimizer step: learning rate "
            f"{at.trainer.args.learning_rate:g}, weights {kinds}, {len(pushed)} tensors with a gradient.",
            fix="Raise training.learning_rate, and train float32 weights (model.dtype).",
            where=at.where("training.learning_rate"),
        )
        return
    # Coarse weights that stay are rounded; that is told by their share, not tensor by tensor.
    fine = [name for name in still if str(trained[name].dtype) == "torch.float32"]
    if fine:
        yield Finding(
            message=f"{len(fine)} of {len(pushed)} trainable tensors have a gradient and did not change in one "
            "optimizer step.",
            fix="Make the optimizer from the trainable parameters of the finished model.",
            where=at.where("training.optim"),
            evidence=group_names(fine),
        )


def _is_pushed(weight: torch.Tensor, gradients: Mapping[str, float | None], name: str) -> bool:
    norm = gradients.get(name)
    return norm is not None and norm > SMALL * math.sqrt(weight.numel())


@wrong_parameters_change.fault
def optimizer_holds_a_copy(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        from copy import deepcopy

        import torch

        at.trainer.optimizer = torch.optim.AdamW(deepcopy(at.model).parameters(), lr=1e-4)
        return at

    world.after(AtModel, damage)


@wrong_parameters_change.fault
def optimizer_lacks_the_head(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        head = at.model.get_output_embeddings().weight
        for group in at.trainer.optimizer.param_groups:
            group["params"] = [p for p in group["params"] if p is not head]
        return at

    world.after(AtModel, damage)


@wrong_parameters_change.fault
def a_frozen_weight_is_written_to(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        frozen = next(p for p in at.model.parameters() if not p.requires_grad)
        at.trainer.optimizer.register_step_post_hook(lambda *_: frozen.data.mul_(1.01))
        return at

    world.recipe["model"]["lora"] = {"r": 8, "target_modules": "all-linear"}
    world.after(AtModel, damage)
