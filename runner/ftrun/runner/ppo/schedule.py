"""How many rollouts and optimizer steps there are; without torch, so that the data stage can say it."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any


def count_rollouts(rows: int, size: int) -> int:
    """Rollouts of an epoch, `size` being that of a rollout in all processes together. There is always one:
    where there are fewer rows, it takes some of them more than once."""
    return max(1, rows // size)


def count_steps(training: Mapping[str, Any], rows: int, processes: int) -> int:
    """Optimizer steps of a run over `rows` prompts, of which each process answers others."""
    if training["max_steps"] > 0:
        return int(training["max_steps"])
    size = measure_rollout(training) * processes
    updates = count_rollouts(rows, size) * training["num_ppo_epochs"] * training["num_mini_batches"]
    epochs: float = training["num_train_epochs"]
    return ceil(epochs * int(updates))


def measure_rollout(training: Mapping[str, Any]) -> int:
    """Prompts of a rollout, on one process."""
    minibatch = training["per_device_train_batch_size"] * training["gradient_accumulation_steps"]
    return int(minibatch * training["num_mini_batches"])
