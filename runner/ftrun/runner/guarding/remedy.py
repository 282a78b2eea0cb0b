"""What is changed in a run that went back, and how it outlives the process."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftrun.runner.guarding.coefficient import read_coefficient, write_coefficient

if TYPE_CHECKING:
    from transformers import Trainer

REMEDY_FILE = "remedy.json"


@dataclass
class Remedy:
    """What is changed in the run since it went back. It holds for all that follows, also where the run is resumed."""

    learning_rate_factor: float = 1.0
    max_grad_norm: float | None = None
    skipped: set[int] = field(default_factory=set)
    """Steps, from 1, that are made without their rows."""

    coefficient: float = 0.0
    """PPO's KL coefficient, or DPO's beta, where what training begins with is lower."""

    shrunk: int = 0
    """How often memory ran out, so that updates are made with less of it: see `shrink`."""

    def save(self, folder: Path) -> None:
        """Write it into the run folder."""
        text = json.dumps(vars(self) | {"skipped": sorted(self.skipped)})
        (folder / REMEDY_FILE).write_text(text, encoding="utf-8")


def load_remedy(folder: Path) -> Remedy:
    """What `save` wrote into a run folder; nothing where it wrote nothing."""
    file = folder / REMEDY_FILE
    if not file.is_file():
        return Remedy()
    known = json.loads(file.read_text(encoding="utf-8"))
    return Remedy(**known | {"skipped": set(known["skipped"])})


def shrink(training: dict[str, Any]) -> dict[str, Any]:
    """Settings to change so that the same updates need less memory; empty where there are none."""
    batch = training["per_device_train_batch_size"]
    if batch % 2 == 0:
        accumulated = training["gradient_accumulation_steps"] * 2
        return {"per_device_train_batch_size": batch // 2, "gradient_accumulation_steps": accumulated}
    return {} if training["gradient_checkpointing"] else {"gradient_checkpointing": True}


def apply(remedy: Remedy, trainer: Trainer) -> None:
    """Change what a trainer begins with; without a remedy, nothing.

    A checkpoint that was written since the last rollback has the lower rate in it already: the rate is set from the
    recipe's own. A schedule that keeps no rates to start from goes on from the optimizer's, and may have lowered it.
    """
    if remedy.max_grad_norm is not None:
        before = trainer.args.max_grad_norm or math.inf
        trainer.args.max_grad_norm = min(before, remedy.max_grad_norm)
    if remedy.coefficient and remedy.coefficient > read_coefficient(trainer):
        write_coefficient(trainer, remedy.coefficient)
    if remedy.learning_rate_factor == 1.0:
        return
    schedule, groups = trainer.lr_scheduler, trainer.optimizer.param_groups
    highest = trainer.args.learning_rate * remedy.learning_rate_factor
    known: Sequence[float] | None = getattr(schedule, "base_lrs", None)
    if known is None:
        for group in groups:
            group["lr"] = min(group["lr"], highest)
    else:
        factor = highest / max(known)
        schedule.base_lrs = [rate * factor for rate in known]
        for group in groups:
            group["lr"] *= factor
            group["initial_lr"] *= factor
    schedule._last_lr = [group["lr"] for group in groups]  # which is what the first step is logged with
