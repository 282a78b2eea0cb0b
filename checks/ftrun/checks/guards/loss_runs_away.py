"""The loss rises far above what it was, and stays there.

Symptom: the loss has fallen, then climbs within some steps to where it began or beyond, and never comes back.
Cause: a learning rate that is too high for the point that training has reached, or gradients that are not clipped.
Fix: lower `training.learning_rate` tenfold; clip gradients with `training.max_grad_norm: 0.5`.
Prevention: a warmup, and a schedule that falls.
Source: the thresholds are medians over ten steps, so that one hard batch is no finding. `benchmarks/guards.py` runs
healthy recipes of every method to their end with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.training import AtUpdate

BEGIN = 0.25
"""Of the rise. The last update whose loss was lower began it; checkpoints behind it hold weights on their way up."""


@check("GUARD002", title="the loss does not run away", methods=("sft", "reward", "dpo"))
def loss_runs_away(at: AtUpdate) -> Iterator[Finding]:
    settings = at.recipe.guards.loss_runs_away
    window = settings.window
    if len(at.updates) < 2 * window:
        raise NotApplicable(f"before step {2 * window} there is nothing to compare with")
    best = at.updates.lowest_median(window)
    now = median(update.loss for update in at.updates.last(window))
    if now > best + settings.rise and now > best * settings.factor:
        yield Finding(
            f"Over the last {window} steps the loss is {now:.4g} in the median; it was {best:.4g} before.",
            "Lower training.learning_rate tenfold and clip gradients with training.max_grad_norm: 0.5.",
            at.where("training.learning_rate"),
            since=at.updates.last_below(best + BEGIN * (now - best)),
        )
