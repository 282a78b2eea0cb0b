"""Answers repeat themselves, and are paid for it.

Symptom: the score rises, and the answers are a few words over and over.
Cause: a reward that grows with length or with certain words, or a reward model that has seen no repetition.
Fix: `reward.penalties.repetition`; a higher `training.kl_coef`; a reward model trained on pairs whose rejected side
repeats.
Prevention: read the answers of each evaluation; leave `reward.penalties` on.
Source: the share of different words under a half is the rule of `reward.penalties.repetition`; here it is counted over
stretches of 50 words, since in a whole text it falls with its length, and against the start, which may write tables.
"""

from __future__ import annotations

from collections.abc import Iterator

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.rollouts import AtRollout, last_good, mean, show

FALLEN = 0.75
"""Of the share at the start: what repeated itself from the beginning was not taught by the reward."""


@check("GUARD011", title="repetition does not pay", methods=("ppo",))
def answers_repeat(at: AtRollout) -> Iterator[Finding]:
    rollouts = at.rollouts
    recent = rollouts.recent(3)
    least, start = at.recipe.guards.answers_repeat.unique_words, mean("unique_words", rollouts.first)
    pays = mean("score", recent) > mean("score", rollouts.first)
    if pays and all(one.unique_words < min(least, FALLEN * start) for one in recent):
        yield Finding(
            f"{recent[-1].unique_words:.0%} of an answer's words are different ones, {start:.0%} at the start, and the "
            f"score has risen from {mean('score', rollouts.first):.4g} to {mean('score', recent):.4g}.",
            "Turn reward.penalties.repetition on, or raise training.kl_coef.",
            at.where("reward.penalties"),
            since=last_good(rollouts, lambda one: one.unique_words > (least + start) / 2),
            table=show(at.answers, lambda one: (one.unique_words, -one.score)),
        )
