"""Weights that are not trained change.

Symptom: with LoRA, the saved adapter does not give the model that was evaluated; with DPO and PPO, the divergence from
the reference stays small while answers drift, since the reference drifts along.
Cause: an optimizer that holds frozen weights or those of the reference, policy and reference that share their memory,
or a callback that writes to weights.
Fix: make the optimizer from trainable parameters alone, load the reference as a model of its own, and remove what
writes to frozen weights. A reference that is to follow the policy is `training.sync_ref_model: true`.
Prevention: preflight takes a step and looks at both (TRAIN019, DPO013); this guard looks while training.
Source: the invariant of TrainCheck (OSDI 2025): a step changes trainable parameters and no others. Of each tensor 64
values are compared, to the last bit, with those at the start.
"""

from __future__ import annotations

from collections.abc import Iterator

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.optimisation import AtLook
from ftrun.checks.parameters import group_names


@check("GUARD016", title="what is frozen stays as it is")
def frozen_weights_move(at: AtLook) -> Iterator[Finding]:
    now = at.looks[-1]
    if now.frozen_moved:
        since = next((look.step + 1 for look in reversed(at.looks) if not look.frozen_moved), 1)
        yield Finding(
            f"Up to step {now.step}, {len(now.frozen_moved)} frozen tensors have changed since training began.",
            "Make the optimizer from trainable parameters alone, and remove what writes to frozen weights.",
            at.where("model"),
            evidence=group_names(now.frozen_moved),
            since=since,
        )
