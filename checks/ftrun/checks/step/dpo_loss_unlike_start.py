"""The first loss of DPO is not that of a policy that equals its reference.

Symptom: the loss begins elsewhere than at ln 2 (0.6931; other losses have a value of their own), rewards and margins
not at 0; or the loss is NaN.
Cause: policy and reference are computed differently: dropout, another precision, a damaged weight, a batch that
reaches one of them otherwise.
Fix: see what the checks of the reference say; compute both in one precision and without dropout.
Prevention: log the first step (`training.logging_first_step`).
Source: with every log-ratio 0 each loss of TRL 1.16 (`DPOTrainer._compute_loss`) is a constant. Rewards may be off
by 10⁻³ of the log-probabilities times beta, which a forward pass with gradients can differ by on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.dry_step import known
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.losses import losses_of, weights_of
from ftrun.checks.stages import AtModel, AtStep

if TYPE_CHECKING:
    from ftrun.checks.testing import World

LN2 = math.log(2)
TOLERANCE = 1e-3

# From beta and the label smoothing ε, the loss of two answers whose log-ratios are 0.
STARTS: Mapping[str, Callable[[float, float], float]] = {
    "sigmoid": lambda beta, e: LN2,
    "sigmoid_norm": lambda beta, e: LN2,
    "robust": lambda beta, e: LN2,
    "aot": lambda beta, e: LN2,
    "aot_unpaired": lambda beta, e: LN2,
    "hinge": lambda beta, e: 1.0,
    "apo_zero": lambda beta, e: 1.0,
    "apo_down": lambda beta, e: 1.0,
    "nca_pair": lambda beta, e: 2 * LN2,
    "bco_pair": lambda beta, e: 2 * LN2,
    "discopop": lambda beta, e: (LN2 + 1) / 2,
    "ipo": lambda beta, e: 1 / (2 * beta) ** 2,
    "sppo_hard": lambda beta, e: 2 * (0.5 / beta) ** 2,
    "exo_pair": lambda beta, e: -LN2 - (math.log1p(-e) + math.log(e)) / 2,
}


@check("DPO014", title="the loss starts where policy and reference agree", methods=("dpo",))
def dpo_loss_unlike_start(at: AtStep) -> Iterator[Finding]:
    loss, metrics, training = known(at.step.loss, at), at.step.metrics, at.recipe.training
    if not math.isfinite(loss):
        yield Finding(
            f"The loss of the first batch is {loss}.",
            "Compute in bfloat16 or float32 (training.bf16, model.dtype), and see that the weights are whole.",
            at.where("training.fp16" if at.trainer.args.fp16 else "model.dtype"),
        )
        return
    _need_a_start(at)
    for side in ("chosen", "rejected"):
        reward, log_prob = metrics[f"rewards/{side}"], metrics[f"logps/{side}"]
        if abs(reward) > TOLERANCE * abs(training["beta"] * log_prob):
            yield Finding(
                f"The reward of the {side} answers is {reward:.3g} before the first step; while policy and reference "
                "are one model it is 0.",
                "Let policy and reference be one model, computed in one precision and without dropout.",
                at.where("model"),
                evidence=tuple(
                    f"{name}: {metrics[name]:.4g}" for name in sorted(metrics) if "rewards/" in name
                ),
            )
            return
    expected = _expected(at)
    if expected is not None and not math.isclose(loss, expected, rel_tol=0.02, abs_tol=1e-3):
        yield Finding(
            f"The loss of the first batch is {loss:.4f}; with rewards of 0 {', '.join(losses_of(training))} is "
            f"{expected:.4f}.",
            "See what changes the loss: weights of the losses, a setting that does not reach it, or the trainer.",
            at.where("training.loss_type"),
        )


def _need_a_start(at: AtStep) -> None:
    recipe: Any = at.recipe
    if recipe.model.reference is not None:
        raise NotApplicable("the recipe names another reference")
    if not at.recipe.training["disable_dropout"]:
        raise NotApplicable("dropout is on, as the recipe says")
    if "rewards/chosen" not in at.step.metrics:
        raise NotApplicable("the trainer collects no rewards")


def _expected(at: AtStep) -> float | None:
    """The loss with all log-ratios at 0; None where a part of it depends on the model."""
    training = at.recipe.training
    losses = losses_of(training)
    if "sft" in losses or training["use_weighting"] or getattr(at.trainer, "aux_loss_enabled", False):
        return None
    beta, smoothing = float(training["beta"]), float(training["label_smoothing"])
    parts = zip(losses, weights_of(training), strict=True)
    return sum(weight * STARTS[loss](beta, smoothing) for loss, weight in parts)


@dpo_loss_unlike_start.fault
def a_weight_is_nan(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        at.model.get_output_embeddings().weight.data[0, 0] = float("nan")
        return at

    world.after(AtModel, damage)


@dpo_loss_unlike_start.fault
def the_reference_is_another_model(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        at.trainer.ref_model.get_output_embeddings().weight.data *= 2.0
        return at

    world.after(AtModel, damage)


@dpo_loss_unlike_start.fault
def a_loss_of_another_type(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        at.trainer.loss_types = ["hinge"]
        return at

    world.after(AtModel, damage)
