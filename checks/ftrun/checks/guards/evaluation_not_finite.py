"""The loss on held-out rows is no number.

Symptom: `eval_loss` is NaN, while the loss of training looks as ever. The best checkpoint is never chosen, since no
number is better than NaN.
Cause: a held-out row that the model cannot compute, or a batch of them without any trained token (a mean over nothing);
or weights that the last step has destroyed.
Fix: take out the row, and look with `ftrun preview` at what of the held-out rows is trained. Where the loss of training
is no number at the next step either, lower the learning rate tenfold.
Prevention: hold out rows of the source that trains (`data.eval: {fraction: 0.05}`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.training import AtEvaluation


@check("GUARD015", title="the loss on held-out rows is a number", methods=("sft", "reward", "dpo"))
def evaluation_not_finite(at: AtEvaluation) -> Iterator[Finding]:
    now = at.evaluations[-1]
    loss = now.metrics.get("eval_loss", 0.0)
    if not math.isfinite(loss):
        yield Finding(
            f"At step {now.step} the loss on held-out rows is {loss:.4g}, while that of training is "
            f"{now.training_loss:.4g}.",
            "Look at the held-out rows with `ftrun preview`: one cannot be computed, or a batch trains no token.",
            at.where("data.eval"),
        )
