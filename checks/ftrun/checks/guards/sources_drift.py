"""What is fed of the sources is not what the recipe asks for.

Symptom: the model gets better at one thing and worse at another, back and forth: of some source, long stretches of the
run see nothing, or nothing else.
Cause: rows that are not shuffled, so that one source comes behind the other; a sampler that runs dry of a source, or
draws from one alone.
Fix: `training.train_sampling_strategy: random`, which is the default; remove what draws rows otherwise.
Prevention: the shares of sources are set by `weight` in the recipe, and drawn at random.
Source: of rows that are drawn without being put back, deviations of shares are bounded by Bernstein's inequality
(Hoeffding 1963, Probability inequalities for sums of bounded random variables, §6). Stretches of 1, 2, 4, … updates are
judged at each update, with a chance of `guards.sources_drift.chance` for a false alarm in the whole run.
"""

from __future__ import annotations

from collections.abc import Iterator

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.mixture import AtMixture


@check(
    "GUARD021",
    title="sources are fed in the shares of the recipe",
    severity="warning",
    methods=("sft", "reward", "dpo"),
)
def sources_drift(at: AtMixture) -> Iterator[Finding]:
    drift = at.mixture.find_drift(at.recipe.guards.sources_drift.chance / max(1, at.steps))
    if drift is not None:
        yield Finding(
            f"Of the {drift.of:,} rows in the last {drift.updates:,} updates, {drift.rows:,} are of {drift.label} "
            f"({drift.rows / drift.of:.1%}); of all rows {drift.share:.1%} are, and chance makes such a difference "
            f"less than once in {1 / max(drift.chance, 1e-99):.0e} times.",
            "Set training.train_sampling_strategy to random, and remove what draws rows otherwise.",
            at.where("training.train_sampling_strategy"),
            evidence=tuple(
                f"{label}: {share:.1%} of all rows"
                for label, share in zip(at.mixture.makeup.labels, at.mixture.makeup.shares, strict=True)
            )[:5],
        )
