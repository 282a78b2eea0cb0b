"""The model forgets what it knew before training.

Symptom: the tuned model does its task, and fails at what the base could do: sums, capitals, who wrote what.
Cause: a rate that is too high for full fine-tuning, narrow data, too many epochs; for DPO a beta that is too small.
Fix: lower the rate; train with `model.lora`; mix general rows into `data.train`; fewer epochs; for DPO keep
`training.beta: 0.1`, for PPO raise `training.kl_coef`.
Prevention: a probe of what your users rely on, in `guards.knowledge_forgotten.probe`.
Source: known answers are asked for by their log-probability (LAMA, arXiv 1909.01066), which moves long before the
greedy answer changes. A loss of 1 nat per token makes every token of an answer 2.7 times less probable: one that was
given nine times in ten is given once in three.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from ftrun.checks.check import check
from ftrun.checks.examples import clip
from ftrun.checks.finding import Finding
from ftrun.checks.training import AtProbe


@check(
    "GUARD004",
    title="what the model knew before it still knows",
    severity="warning",
    methods=("sft", "dpo", "ppo"),
)
def knowledge_forgotten(at: AtProbe) -> Iterator[Finding]:
    before, now = (fmean(getattr(one, time) for one in at.recalls) for time in ("before", "now"))
    if before - now <= at.recipe.guards.knowledge_forgotten.loss:
        return
    fallen = sorted(at.recalls, key=lambda one: one.now - one.before)
    yield Finding(
        f"{len(at.recalls)} answers that the model knew before training have lost {before - now:.2f} nats per token: "
        f"their mean log-probability was {before:.2f} and is {now:.2f}.",
        "Lower training.learning_rate, train with model.lora, or mix general rows into data.train.",
        at.where("training.learning_rate"),
        evidence=tuple(
            f"{clip(f'{one.question} {one.answer}')}: {one.before:.2f}, now {one.now:.2f}"
            for one in fallen[:5]
        ),
    )
