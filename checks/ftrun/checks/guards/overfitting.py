"""The loss rises on held-out rows while it falls on those that train.

Symptom: training loss goes on falling; the loss on held-out rows has passed its lowest point and rises, and the two
part. Answers become copies of the training rows.
Cause: too many epochs, too little data for the model, or too much capacity (a high LoRA rank).
Fix: fewer epochs; `training.weight_decay: 0.1`, `lora_dropout: 0.1`, a lower `r`; more rows. With
`training.load_best_model_at_end: true` the best weights are kept.
Prevention: hold rows out (`data.eval`), and evaluate several times an epoch.
Source: the gap of 0.5 nats is what practitioners act on; asked for besides are two evaluations in a row above the best
one, since one may be noise.
"""

from __future__ import annotations

from collections.abc import Iterator

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.training import AtEvaluation


@check(
    "GUARD003",
    title="what is learnt holds for rows held out",
    severity="warning",
    methods=("sft", "reward", "dpo"),
)
def overfitting(at: AtEvaluation) -> Iterator[Finding]:
    losses = [one.metrics["eval_loss"] for one in at.evaluations if "eval_loss" in one.metrics]
    if len(losses) < 3:
        raise NotApplicable("fewer than three evaluations")
    now, best = at.evaluations[-1], min(losses)
    gap = losses[-1] - now.training_loss
    if gap > at.recipe.guards.overfitting.gap and min(losses[-2:]) > best:
        yield Finding(
            f"At step {now.step} the loss on held-out rows is {losses[-1]:.4g}, {gap:.2g} above the training loss of "
            f"{now.training_loss:.4g}; its lowest was {best:.4g}, and it has risen since.",
            "Train for fewer epochs, or keep the best weights with training.load_best_model_at_end: true.",
            at.where("training.num_train_epochs"),
        )
