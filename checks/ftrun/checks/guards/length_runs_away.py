"""Answers grow until they are cut off.

Symptom: `response/length` climbs to `training.response_length`, and `response/ended` falls: fewer and fewer answers
come to an end.
Cause: a reward that grows with length, or a policy that has forgotten how to end.
Fix: `training.missing_eos_penalty`; `reward.penalties.too_long`; a higher `training.kl_coef`; a longer
`training.response_length` where the answers need it.
Prevention: reward models trained on pairs of like length; look at the length beside the score.
Source: Singhal 2023 (arXiv 2310.03716): most of what PPO gains from reward models is length. Judged is the share of
answers that end, against the first rollouts: an answer that grows and ends may be a better one. Start and end have to
differ by three standard errors.
"""

from __future__ import annotations

from collections.abc import Iterator

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.rollouts import AtRollout, last_good, mean, show

SOME = 0.2
"""The share of answers that has to end at the start: with less it cannot fall."""

ERRORS = 3.0


@check("GUARD012", title="answers come to an end", methods=("ppo",))
def length_runs_away(at: AtRollout) -> Iterator[Finding]:
    rollouts = at.rollouts
    recent = rollouts.recent(3)
    left = at.recipe.guards.length_runs_away.ended
    start, now = mean("ended", rollouts.first), mean("ended", recent)
    answers = sum(one.answers for one in recent)
    either = (start + now) / 2
    error = (either * (1 - either) * 2 / answers) ** 0.5
    if start >= SOME and all(one.ended < left * start for one in recent) and start - now > ERRORS * error:
        yield Finding(
            f"{now:.0%} of the answers come to an end, {start:.0%} did at the start; they have {recent[-1].length:.4g} "
            f"tokens, {mean('length', rollouts.first):.4g} at the start, and are cut at "
            f"{at.recipe.training['response_length']}.",
            "Set training.missing_eos_penalty or reward.penalties.too_long, or raise training.kl_coef.",
            at.where("training.response_length"),
            since=last_good(rollouts, lambda one: one.ended > start * (1 + left) / 2),
            table=show(at.answers, lambda one: (one.ended, -one.length, -one.score)),
        )
