"""The policy has gone far from the model that it is held to.

Symptom: KL(policy ‖ reference) climbs: 0.05, 0.35, 1.2, and then tens and hundreds of nats an answer. Answers become
what the start would never have said: broken, or all of one kind, and the score or the margin still rises.
Cause: `training.kl_coef` or DPO's `training.beta` is too small for the reward or the pairs, the learning rate is too
high, or the reference is not the one that was meant.
Fix: raise `training.kl_coef` or `training.beta`; lower `training.learning_rate`; in PPO set `training.kl_target`.
Prevention: in PPO a coefficient that follows a target (6 nats in Ziegler 2019); in DPO a beta of 0.1.
Source: Gao 2022 (arXiv 2210.10760): what answers are really worth peaks at some 10 to 60 nats an answer, and falls
behind that, for answers of some 50 tokens; hence 25 and 100 nats for up to 100 tokens. Not judged is a distance of
which more than four fifths are entropy that the policy has lost: its answers are as likely under the reference as the
reference's own. That is nearly all of the distance from a start that knows nothing: `recipes/ppo.yaml` learns and ends
at 62 nats, 57 of which are entropy.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.rollouts import AtDistance

TOKENS = 100.0
"""Longer answers may be farther away, in proportion: the thresholds are per answer of at most so many tokens."""

EXPLAINED = 0.8
"""The share of a distance from which on lost entropy explains it."""

ERRORS = 2.0
"""Standard errors by which a KL that was sampled has to be above a threshold."""


@check("GUARD005", title="the policy stays near its reference", methods=("dpo", "ppo"))
def far_from_reference(at: AtDistance) -> Iterator[Finding]:
    needed, key = (3, "training.kl_coef") if at.recipe.method == "ppo" else (1, "training.beta")
    if len(at.distances) < needed:
        raise NotApplicable(f"fewer than {needed} measurements")
    last = at.distances[-needed:]
    kl, surely = last[-1].kl, min(one.kl - ERRORS * one.error for one in last)
    warn_at, limit = _thresholds(at)
    if surely <= warn_at or sum(one.narrowed for one in last) > EXPLAINED * sum(one.kl for one in last):
        return
    beyond = surely > limit
    asked = "" if at.target is None else f", where training.kl_target asks for {at.target:g}"
    good = [one.step for one in at.distances if one.kl - ERRORS * one.error <= warn_at]
    lost = max(0.0, last[-1].narrowed)
    yield Finding(
        f"The policy is {kl:.4g} nats an answer from its reference, {lost:.4g} of which are lost entropy; the "
        f"{'limit' if beyond else 'threshold'} is {limit if beyond else warn_at:.4g}{asked}.",
        f"Raise {key}, or lower training.learning_rate.",
        at.where(key),
        severity="error" if beyond else "info",
        since=max(good, default=0) + 1,
    )


def _thresholds(at: AtDistance) -> tuple[float, float]:
    settings = at.recipe.guards.far_from_reference
    if at.target is not None:
        return at.target * settings.target_factor / 2, at.target * settings.target_factor
    longer = max(1.0, fmean(one.length for one in at.distances[-3:]) / TOKENS)
    return settings.warn_at * longer, settings.limit * longer
