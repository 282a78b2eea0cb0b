"""The loss is one that no loss of its kind can be.

Symptom: training lowers the loss and the model gets worse: it unlearns its answers, or its scores run away.
Cause: a trainer of one's own turned the sign, or summed where a mean belongs; a score head that begins with enormous
scores.
Fix: let the trainer compute the loss as TRL does, and begin with a head whose scores are near 0.
Prevention: look at the first loss: ln 2 (0.69) for pairs that are told apart by chance.
Source: negative log-likelihoods are never negative. Of pairs, −log σ(chosen − rejected) is ln 2 for equal scores; 10
is a rejected answer that scores 10 higher. DPO's loss is judged by DPO014, the height of others by TRAIN016.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.dry_step import known
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtModel, AtStep

if TYPE_CHECKING:
    from ftrun.checks.testing import World

FAR = 10.0


@check("TRAIN043", title="the loss has the sign and size of its kind", methods=("sft", "reward"))
def loss_of_another_kind(at: AtStep) -> Iterator[Finding]:
    loss = known(at.step.loss, at)
    if at.recipe.training.get("loss_type", "nll") != "nll":
        raise NotApplicable("a loss whose range is not known here")
    if loss < 0:
        yield Finding(
            message=f"The loss of the first batch is {loss:.2f}, and no loss of this kind is negative: its sign is "
            "turned.",
            fix="Let the trainer compute the loss as TRL does.",
            where=at.where("training"),
        )
    elif at.recipe.method == "reward" and not loss <= FAR:
        yield Finding(
            message=f"The loss of the first batch is {loss:.2f}; of scores that tell nothing it is {math.log(2):.2f}.",
            fix="See that weights are whole, that scores are near 0 at the start, and that the loss is a mean.",
            where=at.where("model.path"),
        )


@loss_of_another_kind.fault
def the_sign_is_turned(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        compute = at.trainer.compute_loss
        at.trainer.compute_loss = lambda *args, **kwargs: -compute(*args, **kwargs)
        return at

    world.after(AtModel, damage)


@loss_of_another_kind.fault
def scores_begin_enormous(world: World) -> None:
    from ftrun.checks.testing import reward_full

    def damage(at: AtModel) -> AtModel:
        at.model.score.weight.data *= -1e5
        return at

    pairs = reward_full(world.folder)
    world.recipe, world.rows = pairs.recipe, pairs.rows
    world.after(AtModel, damage)
