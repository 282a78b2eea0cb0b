"""Settings of DPO exclude one another.

Symptom: TRL stops with an error when the trainer is built, or at the first step.
Cause: each setting is right by itself, and TRL's DPOTrainer has no way to do both.
Fix: the message says which of the two to change.
Prevention: `ftrun validate` tells it without a model.
Source: TRL 1.16, `DPOConfig.__post_init__`, `DPOTrainer.__init__` and `_compute_loss`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.losses import losses_of
from ftrun.checks.stages import AtRecipe

if TYPE_CHECKING:
    from ftrun.checks.testing import World

DIVERGENT = ("sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft")
"""The losses of the difference of two rewards, in which the unknown factor of another divergence cancels."""

UNWEIGHTED = {
    "aot": "sorts the pairs, so that weights would meet other pairs",
    "aot_unpaired": "sorts the answers, so that weights would meet other pairs",
    "sft": "is one number for the batch, and TRL fails to weigh it",
}


@check("DPO002", title="the settings go together", methods=("dpo",))
def settings_do_not_combine(at: AtRecipe) -> Iterator[Finding]:
    """Tell each combination that TRL refuses."""
    yield from _judge_losses(at)
    yield from _judge_reference(at)


def _judge_losses(at: AtRecipe) -> Iterator[Finding]:
    training = at.recipe.training
    losses, weights = losses_of(training), training["loss_weights"]
    if not losses:
        fix = "Name a loss, such as sigmoid."
        yield Finding("training.loss_type names no loss.", fix, at.where("training.loss_type"))
    if weights is not None and len(weights) != len(losses):
        yield Finding(
            f"training.loss_weights has {len(weights)} weights for {len(losses)} losses ({', '.join(losses)}).",
            "Give training.loss_weights one weight for each loss of training.loss_type, in their order.",
            at.where("training.loss_weights"),
        )
    elif weights is not None and (min(weights, default=1) < 0 or not any(weights)):
        told = "turns its loss round" if any(weights) else "leaves nothing to learn"
        yield Finding(
            f"training.loss_weights is {list(weights)}: a weight of that kind {told}.",
            "Give every loss of training.loss_type a weight above 0.",
            at.where("training.loss_weights"),
        )
    kind = training["f_divergence_type"]
    others = [loss for loss in losses if loss not in DIVERGENT]
    if kind != "reverse_kl" and others:
        yield Finding(
            f"training.f_divergence_type {kind} has no meaning for the loss {', '.join(others)}.",
            "Set training.f_divergence_type to reverse_kl, or take a loss of the difference of rewards (sigmoid).",
            at.where("training.f_divergence_type"),
        )
    for loss in losses:
        if training["use_weighting"] and loss in UNWEIGHTED:
            yield Finding(
                f"training.use_weighting does not go with the loss {loss}, which {UNWEIGHTED[loss]}.",
                f"Set training.use_weighting to false, or remove {loss} from training.loss_type.",
                at.where("training.use_weighting"),
            )


def _judge_reference(at: AtRecipe) -> Iterator[Finding]:
    training, where = at.recipe.training, at.where("training.sync_ref_model")
    if not training["sync_ref_model"]:
        return
    if at.recipe.model.lora is not None:
        yield Finding(
            "training.sync_ref_model needs a reference of its own; with model.lora TRL has none.",
            "Set training.sync_ref_model to false, or train every weight (remove model.lora).",
            where,
        )
    if training["precompute_ref_log_probs"]:
        yield Finding(
            "training.sync_ref_model moves the reference, whose log-probabilities "
            "training.precompute_ref_log_probs computes once.",
            "Set one of training.sync_ref_model and training.precompute_ref_log_probs to false.",
            where,
        )


@settings_do_not_combine.fault
def one_weight_for_two_losses(world: World) -> None:
    """The second loss was added later."""
    world.recipe["training"] |= {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0]}


@settings_do_not_combine.fault
def a_divergence_of_an_unpaired_loss(world: World) -> None:
    """BCO has no other divergence than its own."""
    world.recipe["training"] |= {"loss_type": "bco_pair", "f_divergence_type": "js_divergence"}


@settings_do_not_combine.fault
def weighting_with_a_sum_of_losses(world: World) -> None:
    """TRL fails at the first step."""
    world.recipe["training"] |= {"loss_type": ["sigmoid", "sft"], "use_weighting": True}


@settings_do_not_combine.fault
def a_moving_reference_with_lora(world: World) -> None:
    """The reference is the base under the adapters."""
    world.recipe["model"]["lora"] = {"r": 8, "target_modules": "all-linear"}
    world.recipe["training"]["sync_ref_model"] = True


@settings_do_not_combine.fault
def a_moving_reference_computed_once(world: World) -> None:
    """Its log-probabilities would be stale."""
    world.recipe["training"] |= {"sync_ref_model": True, "precompute_ref_log_probs": True}


@settings_do_not_combine.fault
def losses_without_weight(world: World) -> None:
    """All of nothing."""
    world.recipe["training"] |= {"loss_type": ["sigmoid", "sft"], "loss_weights": [0.0, 0.0]}
