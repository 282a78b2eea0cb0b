"""Weights are no numbers, although the loss was.

Symptom: the loss is NaN from one step to the next, and so is every checkpoint that was written in between.
Cause: an update that overflows the type of the weights (float16, whose largest number is 65,504), a moment of the
optimizer that is infinite or NaN, or something beside the optimizer that writes to the weights.
Fix: keep weights in float32 (`model.dtype: float32`) with `training.bf16: true`; lower the learning rate; remove
callbacks that write to weights.
Prevention: weights are looked at about a hundred times in a run and before a checkpoint is written, so that there is
always one to go back to.
"""

from __future__ import annotations

from collections.abc import Iterator

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.optimisation import AtLook
from ftrun.checks.parameters import group_names


@check("GUARD020", title="weights are numbers")
def weights_not_finite(at: AtLook) -> Iterator[Finding]:
    now = at.looks[-1]
    if now.not_finite:
        since = next((look.step + 1 for look in reversed(at.looks) if not look.not_finite), 1)
        yield Finding(
            f"Behind step {now.step}, {len(now.not_finite)} trained tensors hold values that are no numbers.",
            "Keep weights in float32 (model.dtype), and lower training.learning_rate tenfold.",
            at.where("model.dtype"),
            evidence=group_names(now.not_finite),
            since=since,
        )
