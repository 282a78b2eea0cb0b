"""The checkpoints of this run do not fit on the disk.

Symptom: `No space left on device` hours later, and a checkpoint that is cut off.
Cause: a checkpoint of full fine-tuning is three times the weights (AdamW keeps two moments of each), and
without `save_total_limit` all are kept.
Fix: set `training.save_total_limit: 2`, save less often, or set `training.save_only_model: true`, which gives
up resuming.
Prevention: `ftrun preflight` shows the disk that a run needs before it starts.
Source: one checkpoint more than the limit is there while a new one is written; above 90 % of the free space
is a warning.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    from ftrun.checks.testing import World

CLOSE = 0.9
LIMIT = 2


@check("ENV005", title="the disk holds the checkpoints")
def disk_too_small(at: AtModel) -> Iterator[Finding]:
    """Tell a run whose checkpoints and final model need more than the disk has, or nearly so."""
    weights = _count_weight_bytes(at)
    checkpoint = weights if at.recipe.training["save_only_model"] else at.checkpoint_bytes
    kept = count_kept(at)
    needed, free = kept * checkpoint + weights, at.machine.free_disk
    if needed <= CLOSE * free:
        return
    smaller = kept > LIMIT + 1 and (LIMIT + 1) * checkpoint + weights <= CLOSE * free
    fix = (
        f"Set training.save_total_limit to {LIMIT}."
        if smaller
        else "Free space, write elsewhere (output:), or set training.save_only_model to true."
    )
    yield Finding(
        message=(
            f"{kept} checkpoints of {_shown(checkpoint)} and the model of {_shown(weights)} need "
            f"{_shown(needed)}, and {_shown(free)} are free."
        ),
        fix=fix,
        where=at.where("training.save_total_limit" if smaller else "output"),
        patch=Patch("training.save_total_limit", LIMIT) if smaller else None,
        severity="error" if needed > free else "warning",
    )


def count_kept(at: AtModel) -> int:
    """Checkpoints that are on the disk at once, at most: for `best`, as if each evaluation were better."""
    training, limit = at.recipe.training, at.recipe.training["save_total_limit"]
    strategy = training["save_strategy"]
    if strategy == "best":
        strategy, every = training["eval_strategy"], training["eval_steps"] or training["logging_steps"]
    else:
        every = training["save_steps"]
    if strategy == "no":
        return 0
    if strategy == "epoch":
        epochs = training["num_train_epochs"] if training["max_steps"] <= 0 else _count_epochs(at)
        saved = math.ceil(epochs)
    else:
        # A share of the run where below 1; the last step is saved in any case.
        saved = math.ceil(at.steps / (every if every >= 1 else max(1, math.ceil(at.steps * every))))
    return saved if limit is None else min(saved, limit + 1)


def _count_epochs(at: AtModel) -> float:
    training = at.recipe.training
    batch = (
        training["per_device_train_batch_size"] * training["gradient_accumulation_steps"] * at.process_count
    )
    return float(at.steps * batch / max(1, len(at.train_dataset)))


def _count_weight_bytes(at: AtModel) -> int:
    """Bytes of the weights that are saved: with LoRA those that are trained, else all."""
    adapters = at.recipe.model.lora is not None
    return sum(p.numel() * p.element_size() for p in at.model.parameters() if p.requires_grad or not adapters)


def _shown(count: float) -> str:
    """Bytes for people: `1.5 GB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


@disk_too_small.fault
def a_full_disk(world: World) -> None:
    """Less than one checkpoint is free."""
    world.after(AtModel, lambda at: replace(at, machine=replace(at.machine, free_disk=1_000_000)))


@disk_too_small.fault
def every_checkpoint_is_kept(world: World) -> None:
    """A save at each step, without a limit, and room for five."""
    world.recipe["training"] |= {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 4}
    world.after(
        AtModel, lambda at: replace(at, machine=replace(at.machine, free_disk=5 * at.checkpoint_bytes))
    )
