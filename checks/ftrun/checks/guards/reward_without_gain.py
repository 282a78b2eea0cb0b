"""What training is paid for is no gain.

Symptom: the score of the rollouts rises, and that of held-out prompts falls; or the policy goes farther and farther
from its reference for a score that it has had before.
Cause: too few prompts, which are learnt by heart; a reward that can be pleased without being earned; a rate that is
too high.
Fix: stop at the best evaluation; more prompts; a higher `training.kl_coef`, a lower `training.learning_rate`.
Prevention: hold prompts out (`data.eval`), and evaluate several times.
Source: Gao 2022 (arXiv 2210.10760): a proxy's score grows with the square root of the KL, so a KL that grows by itself
buys nothing. Not counted is KL that is lost entropy, as for GUARD005. Scores of held-out prompts have to differ by two
standard errors.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.rollouts import FIRST, RECENT, AtRollout, Rollout, last_good, mean, narrow, show

ERRORS = 2.0


@check("GUARD019", title="what is paid is a gain", methods=("ppo",))
def reward_without_gain(at: AtRollout) -> Iterator[Finding]:
    yield from _falls_where_held_out(at)
    yield from _costs_more(at)


def _falls_where_held_out(at: AtRollout) -> Iterator[Finding]:
    count = at.recipe.guards.reward_without_gain.evaluations
    if len(at.evaluations) <= count:
        return
    best = max(at.evaluations, key=lambda one: one.score)
    last = at.evaluations[-count:]
    scores = [one.score for one in at.evaluations[-count - 1 :]]
    falls = all(now < before for before, now in pairwise(scores))
    lost = best.score - last[-1].score > ERRORS * (best.error**2 + last[-1].error ** 2) ** 0.5
    if falls and lost and last[-1].training_score > best.training_score:
        yield Finding(
            f"The score of held-out prompts was {best.score:.4g} at step {best.step} and has fallen to "
            f"{last[-1].score:.4g}; that of the rollouts has risen from {best.training_score:.4g} to "
            f"{last[-1].training_score:.4g}.",
            "End at the best evaluation, train on more prompts, or raise training.kl_coef.",
            at.where("training.kl_coef"),
            since=best.step + 1,
            table=show(at.answers, lambda one: -one.score),
        )


def _costs_more(at: AtRollout) -> Iterator[Finding]:
    """Looks for the earliest rollouts, among those kept, that had this score or a better one, and compares the
    distance."""
    rollouts, kept = at.rollouts, at.rollouts.last
    if rollouts.count < FIRST + 2 * RECENT:
        return
    recent = rollouts.recent()
    score, now = mean("score", recent), _go_away(at, recent)
    blocks = [kept[i : i + RECENT] for i in range(0, len(kept) - 2 * RECENT + 1, RECENT)]
    same = next((block for block in blocks if mean("score", block) >= score), None)
    if same is None:
        return
    farther = now - _go_away(at, same)
    if farther > at.recipe.guards.reward_without_gain.kl * max(1.0, mean("length", recent) / 100):
        yield Finding(
            f"The score is {score:.4g}, and was {mean('score', same):.4g} at step {same[-1].step} already; the policy "
            f"has gone {farther:.4g} nats an answer farther from its reference since.",
            "Raise training.kl_coef, or lower training.learning_rate.",
            at.where("training.kl_coef"),
            since=last_good(rollouts, lambda one: one.step <= same[-1].step),
            table=show(at.answers, lambda one: -one.score),
        )


def _go_away(at: AtRollout, block: list[Rollout]) -> float:
    """KL that is no lost entropy."""
    return sum(one.kl - narrow(at.rollouts, one) for one in block) / len(block)
