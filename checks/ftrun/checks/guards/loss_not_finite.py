"""The loss or its gradient is no number.

Symptom: the loss falls, jumps, and then is NaN or infinite for good; every weight is NaN, and the run is lost.
transformers replaces such losses by a running mean before it logs them, unless it is told not to; ftrun tells it.
Cause: a learning rate that is too high (the most frequent), gradients that explode, float16 that overflows, or a row
that the model cannot compute.
Fix: lower the learning rate tenfold, clip gradients to 0.5, train in bfloat16 and not in float16, warm up longer; or
take out the row that is named.
Prevention: `training.max_grad_norm: 1.0`, a warmup, and checkpoints to go back to.
Source: the filter is transformers' `logging_nan_inf_filter`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.training import AtUpdate

SCALING = 20
"""Updates in a row that float16 may leave out while its scale comes down: from 65,536, where it starts, to under 1."""


@check("GUARD001", title="loss and gradients are numbers")
def loss_not_finite(at: AtUpdate) -> Iterator[Finding]:
    *before, now = at.updates.last(2)
    if math.isfinite(now.loss) and (math.isfinite(now.gradient_norm) or _is_scaling(at)):
        return
    known = f"; the loss of the step before was {before[0].loss:.4g}" if before else ""
    yield Finding(
        f"At step {now.step} the loss is {now.loss:.4g} and the norm of its gradient {now.gradient_norm:.4g}{known}.",
        "Lower training.learning_rate tenfold and clip gradients with training.max_grad_norm: 0.5.",
        at.where("training.learning_rate"),
    )


def _is_scaling(at: AtUpdate) -> bool:
    """Whether the norm is only that of gradients which were scaled too high, and left the weights as they were."""
    last = at.updates.last(SCALING)
    return last[-1].left_out and not (len(last) == SCALING and all(one.left_out for one in last))
