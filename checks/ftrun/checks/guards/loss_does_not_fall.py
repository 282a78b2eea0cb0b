"""The loss does not fall.

Symptom: 2.45, 2.44, 2.46, 2.45 …: the run goes on for hours, and ends with the model that it began with.
Cause: a learning rate that is too low, nothing that is trained, updates that round to nothing in bfloat16, an optimizer
with a broken state or other tensors than the model's, a LoRA rank that is too small, or pairs that contradict each
other.
Fix: the finding names the cause that was found by trying: one step, and one batch that is learnt by heart at the rate
of the recipe and at ten to a thousand times it, with all put back to the last bit.
Prevention: `preflight.experiments: true` learns one batch by heart before training.
Source: the mean of the first losses against that of as many last ones, for 10, 20, 40 … of them. The loss falls where
one of these differences is above three of its standard errors; it does not where the one of the most losses is under
`fall` even with two standard errors added, so that a run too noisy to tell is left alone. Not judged are a quarter of
the run, at least `steps` updates behind warmup, a loss that is close to zero from the start, and a run that was
resumed. Text of which a batch can be learnt by heart at the recipe's rate, and whose loss stays all the same, is known
as far as it can be: no finding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import fmean, variance

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.optimisation import AtProgress

SURE, POSSIBLE = 3.0, 2.0
"""Standard errors: above the first a fall is certain, beyond the second none is expected."""

KNOWN = 0.05
"""Nats: a loss under which there is nothing to learn, as for a batch that is learnt by heart (TRAIN039)."""

BEGIN = 10
"""Updates that are the start."""

SHARE = 0.25
"""Of the run, before it is judged."""


@check("GUARD017", title="the loss falls", severity="warning", methods=("sft", "reward", "dpo"))
def loss_does_not_fall(at: AtProgress) -> Iterator[Finding]:
    settings = at.recipe.guards.loss_does_not_fall
    count, start = len(at.updates), fmean(at.first[:BEGIN])
    if count - at.warmup < settings.steps or count < SHARE * at.steps:
        raise NotApplicable("it is too early to judge")
    if abs(start) < KNOWN:
        raise NotApplicable("there is nothing to learn")
    now = [update.loss for update in at.updates.last(len(at.first))]
    sizes = [BEGIN * 2**power for power in range(20) if BEGIN * 2**power <= min(count // 2, len(now))]
    falls = [measure_fall(at.first[:size], now[-size:]) for size in sizes]
    fall, error = falls[-1]
    if any(fall > SURE * error for fall, error in falls) or fall + POSSIBLE * error >= settings.fall * abs(
        start
    ):
        return
    cause = at.find_cause()
    if cause is not None:
        yield Finding(
            f"After {count} steps the loss is {fmean(now[-sizes[-1] :]):.4g}; it was {start:.4g} at the start, and has "
            f"not fallen ({fall:.2g} ± {error:.2g}): {cause.what}.",
            cause.fix,
            at.where(cause.key),
            evidence=cause.evidence,
        )


def measure_fall(before: Sequence[float], now: Sequence[float]) -> tuple[float, float]:
    """The difference of two means, and its standard error, for losses that vary independently."""
    error = math.sqrt(variance(before) / len(before) + variance(now) / len(now))
    return fmean(before) - fmean(now), error
