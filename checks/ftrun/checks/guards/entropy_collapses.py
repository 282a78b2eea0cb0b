"""The policy has stopped trying anything.

Symptom: `policy/entropy` falls to nearly nothing while the score stands still below what some answers reach: each
prompt gets one answer, good or bad, and nothing better is ever found.
Cause: a learning rate that is too high, a `training.kl_coef` that is too low, too many updates of one rollout.
Fix: go back to an earlier checkpoint; raise `training.kl_coef`, lower `training.learning_rate` or
`training.num_ppo_epochs`.
Prevention: larger rollouts, a lower rate; watch `policy/entropy`.
Source: a tenth of the entropy at the start, for five rollouts, is axolotl's rule. What tells a collapse from a task
that is solved is whether anything is left to gain: in a solved one, nearly all answers are worth what the best tenth
of them was ever worth; in a collapse the score stands still below that.
"""

from __future__ import annotations

from collections.abc import Iterator

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.rollouts import FIRST, RECENT, AtRollout, last_good, mean, show

LEFT = 0.25
"""The share of what could be gained that has to be left. What could be gained is from the score at the start to what
the best tenth of the answers of any rollout reached."""

EARLY = 0.8
"""The share of the run in which there is something left to try."""


@check("GUARD013", title="the policy goes on trying", methods=("ppo",))
def entropy_collapses(at: AtRollout) -> Iterator[Finding]:
    rollouts = at.rollouts
    if rollouts.count < FIRST + 2 * RECENT or at.progress > EARLY:
        raise NotApplicable("too early, or too late, for a judgement")
    before, recent = rollouts.last[-2 * RECENT : -RECENT], rollouts.recent()
    start, score = mean("entropy", rollouts.first), mean("score", recent)
    begun, high = mean("score", rollouts.first), max(one.high for one in [*rollouts.first, *rollouts.last])
    error = (mean("deviation", recent) ** 2 / sum(one.answers for one in recent)) ** 0.5
    least = at.recipe.guards.entropy_collapses.entropy * start
    stands = score <= mean("score", before) + error
    if stands and high - score > LEFT * (high - begun) and all(one.entropy < least for one in recent):
        yield Finding(
            f"The policy's entropy is {recent[-1].entropy:.2g} nats a token, {start:.2g} at the start, and the score "
            f"stands at {score:.4g}, where the best tenth of the answers reached {high:.4g}.",
            "Raise training.kl_coef, and lower training.learning_rate or training.num_ppo_epochs.",
            at.where("training.kl_coef"),
            since=last_good(rollouts, lambda one: one.entropy > start / 2),
            table=show(at.answers, lambda one: one.score),
        )
