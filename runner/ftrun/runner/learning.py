"""Learning a batch by heart: what can be trained can learn a few rows, and then answers their prompts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ftrun.checks.experiments import Learning, Step
from ftrun.checks.stages import AtModel
from ftrun.runner.exchange import answer_floor, exchange_prompts
from ftrun.runner.trial import (
    Batch,
    NotMade,
    Weights,
    advance,
    ask,
    differentiate,
    unscale,
)

if TYPE_CHECKING:
    from transformers import Trainer

STEPS = 25
"""Optimizer steps on the batch."""

SHARE = 0.001
"""Of the batches of a run, how many these steps may be for `preflight.experiments: auto`."""

LEARNERS = ("sft", "dpo", "reward")
"""Methods whose batch is the same at each step. That of PPO is written anew by the policy."""


def need_learning(at: AtModel, step: Step) -> None:
    """Raises NotMade where the dry step failed, or the recipe does not have its batch learnt by heart.

    `auto` is decided on counts, so that two machines make the same experiments of one recipe.
    """
    wanted = at.recipe.preflight.experiments
    if step.failed is not None:
        raise NotMade(f"the {step.failed} of the dry step failed")
    if at.recipe.method not in LEARNERS:
        raise NotMade(f"not for method {at.recipe.method}")
    if wanted is False:
        raise NotMade("preflight.experiments is false")
    batches = at.steps * int(at.recipe.training["gradient_accumulation_steps"])
    if wanted == "auto" and SHARE * batches < STEPS:
        raise NotMade(
            f"{STEPS} steps on one batch are more than {SHARE:.1%} of the run's {batches}; "
            "preflight.experiments: true has it learnt"
        )


def learn_by_heart(at: AtModel, batch: Batch, weights: Weights) -> Learning:
    """STEPS optimizer steps on one batch, with the recipe's own optimizer, and what is different afterwards.

    `weights` are those that are trained, as they are now. The caller puts all back.
    """
    trainer = at.trainer
    other: Batch | None = None
    try:
        other, kept = exchange_prompts(at.recipe.method, batch), ""
    except NotMade as why:
        kept = str(why)
    start, before = ask(trainer, batch)
    own, exchanged = [_cost(at, start, before)], [_ask_cost(at, other)]
    losses = tuple(_train(trainer, batch) for _ in range(STEPS))
    end, after = ask(trainer, batch)
    own.append(_cost(at, end, after))
    exchanged.append(_ask_cost(at, other))
    accuracy = "rewards/accuracies" if at.recipe.method == "dpo" else "accuracy"
    return Learning(
        losses=losses,
        evaluated=(start, end),
        accuracy=None if at.recipe.method == "sft" else (before[accuracy], after[accuracy]),
        moved=measure_distance(trainer, weights),
        floor=answer_floor(batch) if at.recipe.method == "sft" else 0.0,
        own=None if other is None else (own[0], own[1]),
        exchanged=None if other is None else (exchanged[0], exchanged[1]),
        kept=kept,
    )


def _train(trainer: Trainer, batch: Batch) -> float:
    """One step of training; its loss."""
    trainer.optimizer.zero_grad()
    loss = differentiate(trainer, batch)
    unscale(trainer)
    advance(trainer)
    if trainer.accelerator.scaler is not None:
        trainer.accelerator.scaler.update()
    return loss.item()


def _ask_cost(at: AtModel, batch: Batch | None) -> float:
    return math.nan if batch is None else _cost(at, *ask(at.trainer, batch))


def _cost(at: AtModel, loss: float, metrics: dict[str, float]) -> float:
    """What the answers cost: the loss; for pairs of DPO, whose loss begins as a constant, the chosen answers."""
    return -metrics["logps/chosen"] if at.recipe.method == "dpo" else loss


def measure_distance(trainer: Trainer, weights: Weights) -> float:
    """How far the weights are from `weights`, as a share of the norm of these."""
    moved = total = 0.0
    named: dict[str, Any] = dict(trainer.model.named_parameters())
    for name, old in weights.items():
        moved += float((named[name].detach().cpu().float() - old.float()).square().sum())
        total += float(old.float().square().sum())
    return math.sqrt(moved / total) if total else math.inf
