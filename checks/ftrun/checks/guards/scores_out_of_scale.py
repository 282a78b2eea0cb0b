"""Scores are of another order than all before.

Symptom: one answer is worth a million and the others a half; advantages are scaled by the one, so that all others are
alike, and the value model is thrown far away by it.
Cause: a reward function that divides by nothing or nearly so, adds up instead of taking a mean, or returns an error
code; a reward model that overflows.
Fix: make the reward function return numbers in a range that you know, and clip them there.
Prevention: preflight scores a rollout before training (`ftrun preflight`).
Source: the deviation of a rollout's scores against the largest score and deviation of those before it. Of n answers one
that is D away from the others makes a deviation of D / √n. A reward that a policy learns to earn does not grow a
hundredfold from one rollout to the next; one that begins next to 0 is given a scale of a tenth.
"""

from __future__ import annotations

from collections.abc import Iterator

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.rollouts import FIRST, AtScores, show

LEAST = 0.1


@check("GUARD025", title="scores stay in their scale", methods=("ppo",))
def scores_out_of_scale(at: AtScores) -> Iterator[Finding]:
    if at.rollouts.count <= FIRST:
        raise NotApplicable(f"fewer than {FIRST + 1} rollouts")
    *before, now = at.rollouts.last
    usual = max(LEAST, *(max(one.deviation, abs(one.score)) for one in (*at.rollouts.first, *before)))
    if now.deviation > at.recipe.guards.scores_out_of_scale.factor * usual:
        wildest = max(at.answers, key=lambda one: abs(one.score - now.score))
        yield Finding(
            f"The scores of the rollout at step {now.step} deviate by {now.deviation:.4g}, those of all rollouts "
            f"before by {usual:.4g} at most; one answer has {wildest.score:.4g}.",
            "Make the reward return numbers in a known range, and clip them there.",
            at.where("reward"),
            since=now.step,
            table=show(at.answers, lambda one: -abs(one.score - now.score)),
        )
