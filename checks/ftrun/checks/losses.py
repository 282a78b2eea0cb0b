"""The losses of DPO that a recipe asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SMOOTHED = ("robust", "exo_pair", "aot", "aot_unpaired")
"""The losses that read `label_smoothing` (TRL 1.16, `DPOTrainer._compute_loss`)."""


def losses_of(training: Mapping[str, Any]) -> tuple[str, ...]:
    """The names under `training.loss_type`, which takes one or a list of them."""
    named = training["loss_type"]
    return (named,) if isinstance(named, str) else tuple(named)


def weights_of(training: Mapping[str, Any]) -> tuple[float, ...]:
    """The weight of each loss."""
    written = training["loss_weights"]
    return (1.0,) * len(losses_of(training)) if written is None else tuple(written)
