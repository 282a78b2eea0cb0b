"""The norm of the gradient spikes, and the run suffers from it.

Symptom: single steps have gradients ten to a million times larger than usual; behind them the loss is worse than
before, or falls no more: Adam's second moment remembers a spike for thousands of steps, in which weights hardly move.
Cause: rows unlike the others (a different language, garbage, a very long row), a learning rate at the edge of what is
stable, or clipping that is off.
Fix: clip gradients (`training.max_grad_norm: 1.0`), lower `training.learning_rate`, and look at the rows of that step.
Prevention: `training.max_grad_norm: 1.0`, which is the default; a warmup.
Source: a spike is ten times the highest mean level so far, and four deviations of the run's own logarithm of norms
above it. One that clipping catches, and behind which the loss is as before, is no finding. An unclipped one of F times
the usual norm shrinks Adam's steps by about √(1 + (1 − β₂) F²): tenfold for F = 300. The run goes back to before such a
spike, and to before one behind which the loss is worse; spikes that come again and again are told and no more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import median

from ftrun.checks.check import check
from ftrun.checks.finding import Finding, Severity
from ftrun.checks.norms import Usual
from ftrun.checks.training import AtUpdate, Update

DEVIATIONS = 4.0
UNCLIPPED = 300.0
"""How many times the usual norm an update may be given."""

AROUND = 10
"""Updates before and behind a spike whose losses are compared."""

WORSE = 8
"""Of these, how many have to be above all of those: of twice ten numbers, they are by chance once in 2,800 times."""

AGAIN = 100
"""Updates in which spikes are counted."""


@check("GUARD018", title="gradients do not spike", severity="warning", methods=("sft", "reward", "dpo"))
def gradient_norm_spikes(at: AtUpdate) -> Iterator[Finding]:
    settings = at.recipe.guards.gradient_norm_spikes
    judges: tuple[tuple[Judge, Severity | None], ...] = (
        (_pass_clipping, None),
        (_worsen, None),
        (_come_again, "info"),  # there is no point to go back to
    )
    for judge, severity in judges:
        told = judge(at, settings.factor, settings.count)
        if told:
            spike, what = told
            yield Finding(
                f"At step {spike.step} the norm of the gradient was {spike.gradient_norm:.4g}, {what}.",
                "Clip gradients with training.max_grad_norm: 1.0, and look at the rows of that step.",
                at.where("training.max_grad_norm"),
                severity=severity,
                since=spike.step,
            )
            return


def _is_spike(update: Update, usual: Usual | None, factor: float) -> bool:
    if usual is None or not 0 < update.gradient_norm < math.inf:
        return False
    above = math.log(update.gradient_norm) - usual.level
    return above > max(math.log(factor), DEVIATIONS * usual.deviation)


Told = tuple[Update, str] | None
Judge = Callable[[AtUpdate, float, int], Told]


def _pass_clipping(at: AtUpdate, factor: float, count: int) -> Told:
    """The last update is a spike that reached the optimizer."""
    (now,), (usual,) = at.updates.last(1), at.updates.usual(1)
    if not _is_spike(now, usual, factor):
        return None
    assert usual is not None
    times = min(now.gradient_norm, at.recipe.training["max_grad_norm"] or math.inf) / math.exp(usual.level)
    return (now, f"{times:.3g} times the usual, and not clipped") if times > UNCLIPPED else None


def _worsen(at: AtUpdate, factor: float, count: int) -> Told:
    """The update AROUND ago was a spike, and losses are worse since."""
    around, usual = at.updates.last(2 * AROUND + 1), at.updates.usual(AROUND + 1)
    if len(around) < 2 * AROUND + 1 or not _is_spike(around[AROUND], usual[0], factor):
        return None
    worst, since = max(_losses(around[:AROUND])), sorted(_losses(around[AROUND + 1 :]))
    now = median(since)
    if since[AROUND - WORSE] <= worst:
        return None
    return around[
        AROUND
    ], f"and the loss of the steps since is {now:.4g} in the median; it was {worst:.4g} at most"


def _come_again(at: AtUpdate, factor: float, count: int) -> Told:
    """The last update is one spike of many, and the loss does not fall."""
    (usual,) = at.updates.usual(1)
    last = at.updates.last(AGAIN)
    if len(last) < AGAIN or not _is_spike(last[-1], usual, factor):
        return None
    spikes = sum(
        _is_spike(one, one_usual, factor)
        for one, one_usual in zip(last, at.updates.usual(AGAIN), strict=True)
    )
    if spikes < count or median(_losses(last[AGAIN // 2 :])) < median(_losses(last[: AGAIN // 2])):
        return None
    return last[-1], f"the {spikes}th such spike in {AGAIN} steps, in which the loss does not fall"


def _losses(updates: Sequence[Update]) -> list[float]:
    return [update.loss for update in updates]
