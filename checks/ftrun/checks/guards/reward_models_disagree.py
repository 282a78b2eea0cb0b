"""The reward models of the ensemble disagree more and more.

Symptom: `score/disagreement` grows while the score rises.
Cause: the answers have come to where the reward models have seen nothing like them, and each guesses for itself.
Fix: a higher `training.kl_coef`; a higher `reward.pessimism`; reward models trained on answers of this policy.
Prevention: three or more reward models from different seeds and data.
Source: Coste 2023 (arXiv 2310.02743): the disagreement of an ensemble grows as it is overoptimised. The default factor
of 2 is this project's own; a rise has to be more than a tenth of the scores' own deviation besides, since models that
agree to the last digit may do so twice as badly.
"""

from __future__ import annotations

from collections.abc import Iterator

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.rollouts import AtRollout, last_good, mean, show

NOTABLE = 0.1
"""Of the deviation of the scores."""


@check("GUARD014", title="reward models agree as they did", methods=("ppo",))
def reward_models_disagree(at: AtRollout) -> Iterator[Finding]:
    rollouts = at.rollouts
    recent = rollouts.recent()
    if recent[-1].disagreement is None:
        raise NotApplicable("there is one reward model, or none")
    start, now = mean("disagreement", rollouts.first), mean("disagreement", recent)
    factor = at.recipe.guards.reward_models_disagree.factor
    notable = now - start > NOTABLE * mean("deviation", rollouts.first)
    if notable and all(one.disagreement > factor * start for one in recent if one.disagreement is not None):
        yield Finding(
            f"The reward models disagree by {now:.4g} in the mean of {len(recent)} rollouts, by {start:.4g} at the "
            f"start; the score was {mean('score', rollouts.first):.4g} and is {mean('score', recent):.4g}.",
            "Raise training.kl_coef or reward.pessimism, and train reward models on answers of this policy.",
            at.where("reward.pessimism"),
            since=last_good(rollouts, lambda one: (one.disagreement or 0.0) < (start + now) / 2),
            table=show(at.answers, lambda one: -one.score),
        )
