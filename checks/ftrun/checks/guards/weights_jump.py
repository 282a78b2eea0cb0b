"""Weights change by more than the optimizer can change them.

Symptom: the model is another from one step to the next, while the loss is a number and may even look as ever: a reward
model whose scores are a thousand times as large, a policy that has forgotten what it learnt.
Cause: a rate that was not the recipe's for a while (a schedule or a callback that sets it), memory that fails, or
something beside the optimizer that writes to the weights.
Fix: remove what writes to the weights or to the rate; where there is no such thing, test the memory of the machine.
Prevention: weights are looked at about a hundred times in a run and before a checkpoint is written, so that there is
always one to go back to.
Source: Adam moves a weight by at most (1 − β₁) / √((1 − β₂) (1 − β₁²/β₂)) times the rate in a step (by Cauchy and
Schwarz; 7.3 for its default betas), whatever the gradients are. Found is one and a half times that over all steps since
the look before, with the recipe's highest rate, weight decay and rounding added. Other optimizers have no such bound,
and are not judged.
"""

from __future__ import annotations

from collections.abc import Iterator

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.optimisation import AtLook
from ftrun.checks.parameters import group_names


@check("GUARD023", title="weights move as the optimizer moves them")
def weights_jump(at: AtLook) -> Iterator[Finding]:
    now = at.looks[-1]
    if now.jumped:
        since = at.looks[-2].step + 1 if len(at.looks) > 1 else 1
        yield Finding(
            f"Between step {since - 1} and step {now.step}, {len(now.jumped)} trained tensors have moved up to "
            f"{max(now.jumped.values()):.3g} times as far as the optimizer can take them at the recipe's rate.",
            "Remove what writes to the weights or sets the rate beside the recipe; else test the machine's memory.",
            at.where("training.learning_rate"),
            evidence=group_names(tuple(now.jumped)),
            since=since,
        )
