"""The answers of a rollout are all worth the same.

Symptom: `score/std` is 0 or nearly so; the policy loss is noise, and the score stands still where it is.
Cause: a reward function that returns the same for everything (a column that is not there, a pattern that never
matches, a score that is clipped), a task of which no answer solves anything, or a policy that says the same to
everything.
Fix: call the reward on a good and on a bad answer by hand; give part of the reward for part of the way; raise
`training.temperature` or `training.kl_coef` where the answers are alike.
Prevention: preflight scores a rollout before training (`ftrun preflight`).
Source: the deviation is judged against that of the first rollouts, so that a reward between 0 and 0.05 has its own
scale. Answers that are alike since they are all good are no finding: there the score is above that of the start.
"""

from __future__ import annotations

from collections.abc import Iterator

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.rollouts import RECENT, AtRollout, gain, last_good, mean, show

ANSWERS = 100
"""Answers without a difference before it is said that there is none: a reward may be rare."""

NOTHING = 1e-6
"""Deviations, in parts of the score, that are rounding."""

EARNED = 0.25
"""Deviations of the start by which a score has to be above that of the start to count as earned."""


@check("GUARD007", title="rewards tell answers apart", methods=("ppo",))
def rewards_all_alike(at: AtRollout) -> Iterator[Finding]:
    rollouts, least = at.rollouts, at.recipe.guards.rewards_all_alike.deviation
    recent = rollouts.recent()
    score, scale = mean("score", recent), mean("deviation", rollouts.first)
    if scale <= NOTHING * (1 + abs(score)):
        known = [*rollouts.first, *rollouts.last]
        answers = recent[-1].answers * rollouts.count
        if answers < ANSWERS or any(one.deviation > NOTHING * (1 + abs(score)) for one in known):
            return
        said, since = f"all {answers} answers so far have the score {score:.4g} or nearly so", 1
    elif all(one.deviation < least * scale for one in recent) and gain(rollouts, recent) < EARNED:
        said = (
            f"for {RECENT} rollouts the scores deviate by less than {max(one.deviation for one in recent):.2g}, by "
            f"{scale:.2g} at the start; their mean is {score:.4g}, {mean('score', rollouts.first):.4g} at the start"
        )
        since = last_good(rollouts, lambda one: one.deviation > scale / 2)
    else:
        return
    yield Finding(
        f"Rewards do not tell answers apart: {said}.",
        "Call the reward on a good and on a bad answer; raise training.kl_coef where the answers are alike.",
        at.where("reward"),
        since=since,
        table=show(at.answers, lambda one: one.score),
    )
