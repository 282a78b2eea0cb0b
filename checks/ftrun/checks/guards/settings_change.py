"""A number that the run is made with changes while it trains.

Symptom: the loss is another from one step to the next, or looks as ever, and the model is not the one that the recipe
describes: another dropout, adapters that weigh more, another beta.
Cause: a callback, or a part of a library, that writes to the trainer, to its arguments or to the model's modules.
Fix: remove what writes there; a setting that is to be another belongs into the recipe.
Prevention: every number of the trainer's arguments and of the model's modules is compared with what it was at the
first step, at each step that is looked at.
Source: none of them changes in a healthy run of any method; what is to change, such as the rate or PPO's KL
coefficient, is kept elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.optimisation import AtSettings


@check("GUARD024", title="the run goes on with the settings that it began with")
def settings_change(at: AtSettings) -> Iterator[Finding]:
    if at.changed:
        first = at.changed[0]
        more = f", and {len(at.changed) - 1} others have changed" if len(at.changed) > 1 else ""
        yield Finding(
            f"At step {at.step} {first.name} is {first.now:.4g}; it was {first.before:.4g} when training began{more}.",
            "Remove what writes to the trainer or to the model's modules beside the recipe.",
            at.where("training"),
            evidence=tuple(f"{one.name}: {one.before:.4g} → {one.now:.4g}" for one in at.changed[:5]),
        )
