"""The loss rises far above what it was, and stays there.

Symptom: the loss has fallen, then climbs within some steps to where it began or beyond, and never comes back.
Cause: a learning rate that is too high for the point that training has reached, or gradients that are not clipped.
Fix: lower `training.learning_rate` tenfold; clip gradients with `training.max_grad_norm: 0.5`.
Prevention: a warmup, and a schedule that falls.
Source: the thresholds are medians over ten steps, so that one hard batch is no finding; or five losses in a row above
the hundred before them, which rows that are drawn at random do not give by chance. `benchmarks/guards.py` runs healthy
recipes of every method to their end with it.
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


STEPS, BEFORE = 5, (20, 100)
"""Losses in a row that are above all before them, and how many of these are looked at, at least and at most: where rows
are drawn at random, they are above 20 by chance once in 50,000 times, and above 100 once in a hundred million times."""


@check("GUARD002", title="the loss does not run away", methods=("sft", "reward", "dpo"))
def loss_runs_away(at: AtUpdate) -> Iterator[Finding]:
    told = _find_rise(at) or _find_jump(at)
    if told:
        what, since = told
        yield Finding(
            what,
            "Lower training.learning_rate tenfold and clip gradients with training.max_grad_norm: 0.5.",
            at.where("training.learning_rate"),
            since=since,
        )
    elif len(at.updates) < 2 * at.recipe.guards.loss_runs_away.window:
        raise NotApplicable("there is nothing to compare with yet")


def _find_rise(at: AtUpdate) -> tuple[str, int | None] | None:
    """A loss far above its best, at whatever pace it came there."""
    settings = at.recipe.guards.loss_runs_away
    window = settings.window
    if len(at.updates) < 2 * window:
        return None
    best = at.updates.lowest_median(window)
    now = median(update.loss for update in at.updates.last(window))
    if now <= best + settings.rise or now <= best * settings.factor:
        return None
    what = f"Over the last {window} steps the loss is {now:.4g} in the median; it was {best:.4g} before."
    return what, at.updates.last_below(best + BEGIN * (now - best))


def _find_jump(at: AtUpdate) -> tuple[str, int | None] | None:
    """A loss that has given back much of what was learnt from one step to the next, and stays: small losses, as those
    of pairs, and large ones, as those of a model that is far from done, have no other sign."""
    settings = at.recipe.guards.loss_runs_away
    last = [update.loss for update in at.updates.last(STEPS + BEFORE[1])]
    drawn = at.recipe.training["train_sampling_strategy"] == "random"
    if len(last) < STEPS + BEFORE[0] or not drawn or not min(last[-STEPS:]) > max(last[:-STEPS]):
        return None
    start, best, now = at.updates.start, at.updates.lowest_median(settings.window), median(last[-STEPS:])
    if start <= best or now - best <= settings.given_back * (start - best):
        return None
    what = f"The last {STEPS} losses, of {now:.4g} in the median, are above all {len(last) - STEPS} before them; it "
    what += f"began with {start:.4g} and had come down to {best:.4g}."
    return what, at.updates.last(STEPS)[0].step
