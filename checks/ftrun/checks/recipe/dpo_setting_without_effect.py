"""A setting of DPO is written and has no effect.

Symptom: two runs with different values of it are the same to the last bit.
Cause: the setting belongs to another loss or to another setting, which is off: `label_smoothing` is read by four
losses only, and not by the default one; the dropout of LoRA is set to 0 by `disable_dropout`.
Fix: turn on what reads it, or remove it.
Prevention: change one setting, and see that the loss of the second step changes.
Source: TRL 1.16, `DPOTrainer._compute_loss`: `label_smoothing` with the default loss was used with 0.0 and 0.4 alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.losses import SMOOTHED, losses_of, weights_of
from ftrun.checks.stages import AtRecipe

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check(
    "DPO004", title="every setting of DPO that is written has an effect", severity="warning", methods=("dpo",)
)
def dpo_setting_without_effect(at: AtRecipe) -> Iterator[Finding]:
    """Tell settings that are written with another value than their default and that nothing reads."""
    training, written = at.recipe.training, at.file.recipe.training
    losses, weights = losses_of(training), weights_of(training)
    reads = {
        "label_smoothing": any(loss in SMOOTHED for loss in losses),
        "discopop_tau": "discopop" in losses,
        "f_alpha_divergence_coef": training["f_divergence_type"] == "alpha_divergence",
        "ref_model_mixup_alpha": training["sync_ref_model"],
        "ref_model_sync_steps": training["sync_ref_model"],
        "precompute_ref_batch_size": training["precompute_ref_log_probs"],
    }
    readers = {
        "label_smoothing": f"training.loss_type is {', '.join(losses)}; {', '.join(SMOOTHED)} read it",
        "discopop_tau": f"training.loss_type is {', '.join(losses)}; discopop reads it",
        "f_alpha_divergence_coef": "training.f_divergence_type is not alpha_divergence",
        "precompute_ref_batch_size": "training.precompute_ref_log_probs is false",
    }
    for name, is_read in reads.items():
        if not is_read and written.get(name):
            yield Finding(
                f"training.{name} is {written[name]:g} and has no effect: "
                f"{readers.get(name, 'training.sync_ref_model is false')}.",
                f"Remove training.{name}, or turn on what reads it.",
                at.where(f"training.{name}"),
            )
    if set(losses) == {"sft"}:
        yield Finding(
            "training.loss_type is sft alone: the rejected answers and the reference have no effect.",
            "Add a loss of the pairs (loss_type: [sigmoid, sft]), or train with method: sft.",
            at.where("training.loss_type"),
        )
    # Another number of weights than losses is told by DPO002.
    elif len(weights) == len(losses) > 0 and all(
        weight == 0 for loss, weight in zip(losses, weights, strict=True) if loss != "sft"
    ):
        yield Finding(
            f"training.loss_weights gives {', '.join(loss for loss in losses if loss != 'sft')} the weight 0: the "
            "rejected answers and the reference have no effect.",
            "Give the loss of the pairs a weight above 0, or train with method: sft.",
            at.where("training.loss_weights"),
        )
    dropout = (at.recipe.model.lora or {}).get("lora_dropout")
    if dropout and training["disable_dropout"]:
        yield Finding(
            f"model.lora.lora_dropout is {dropout:g} and has no effect: training.disable_dropout sets it to 0.",
            "Remove model.lora.lora_dropout: without dropout, policy and reference differ by what is learnt alone.",
            at.where("model.lora.lora_dropout"),
            severity="info",
        )


@dpo_setting_without_effect.fault
def smoothing_of_another_loss(world: World) -> None:
    """The sigmoid loss knows no label smoothing in TRL."""
    world.recipe["training"]["label_smoothing"] = 0.4


@dpo_setting_without_effect.fault
def the_loss_of_supervised_training_alone(world: World) -> None:
    """No preference is learnt."""
    world.recipe["training"]["loss_type"] = "sft"


@dpo_setting_without_effect.fault
def the_pairs_have_no_weight(world: World) -> None:
    """All weight is on supervised training."""
    world.recipe["training"] |= {"loss_type": ["sigmoid", "sft"], "loss_weights": [0.0, 1.0]}


@dpo_setting_without_effect.fault
def a_pace_without_a_moving_reference(world: World) -> None:
    """The reference does not move."""
    world.recipe["training"]["ref_model_sync_steps"] = 64


@dpo_setting_without_effect.fault
def dropout_that_trl_turns_off(world: World) -> None:
    """DPO trains without dropout unless asked."""
    world.recipe["model"]["lora"] = {"r": 8, "target_modules": "all-linear", "lora_dropout": 0.1}
