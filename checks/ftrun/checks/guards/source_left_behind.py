"""The loss of one source rises, while that of the others does not.

Symptom: the loss falls or stays, and still the model loses what one of the sources is to teach.
Cause: sources that contradict each other; one so small that the others wash it out; rows of one source that are spoilt
on their way to the model.
Fix: raise the `weight` of that source, or look at what contradicts it in the others.
Prevention: hold out rows of every source (`data.eval`).
Source: the loss of an update is the mean of the losses of its sources, weighted with their tokens (pairs, in DPO and
reward), so that least squares over 100 updates tell these apart without computing anything again. Found is a rise that
is larger than six standard errors, which is where healthy runs of `benchmarks/guards.py` never are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.mixture import AtSourceLosses

if TYPE_CHECKING:
    from ftrun.checks.mixture import Losses

ERRORS = 6.0


@check("GUARD022", title="no source is left behind", severity="warning", methods=("sft", "reward", "dpo"))
def source_left_behind(at: AtSourceLosses) -> Iterator[Finding]:
    now = at.losses[-1]
    for source, label in enumerate(at.labels):
        known = [one for one in at.losses[:-1] if one.errors[source] < ERRORS]
        if not known:
            continue
        best = min(known, key=lambda one: float(one.means[source] + one.errors[source]))
        if _rises(source, best, now, at.recipe.guards.source_left_behind.rise):
            others = [(one.sum() - one[source]) / (len(one) - 1) for one in (best.means, now.means)]
            yield Finding(
                f"The loss of {label} is {now.means[source]:.4g} ± {now.errors[source]:.2g}; it was "
                f"{best.means[source]:.4g} ± {best.errors[source]:.2g} up to step {best.step}. That of the other "
                f"sources went from {others[0]:.4g} to {others[1]:.4g}.",
                f"Raise the weight of {label} in data.train, or look at what contradicts it in the others.",
                at.where("data.train"),
                since=best.step + 1,
            )
            return


def _rises(source: int, best: Losses, now: Losses, rise: float) -> bool:
    rises, errors = now.means - best.means, (now.errors**2 + best.errors**2) ** 0.5
    others = (rises.sum() - rises[source]) / (len(rises) - 1)
    return bool(rises[source] > max(rise, ERRORS * errors[source]) and others < rises[source] / 4)
