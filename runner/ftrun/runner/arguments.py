"""The trainer's arguments: what the recipe writes under `training:`, and what ftrun decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from math import ceil
from pathlib import Path
from typing import Any, TypeVar, cast

from ftrun.checks.stages import AtEnvironment
from ftrun.schemas.errors import ModelError, first_line

Config = TypeVar("Config")

SPENT = (
    "model_init_kwargs",
    "truncation_mode",
    "shuffle_dataset",
    "gradient_checkpointing",
    "gradient_checkpointing_kwargs",
)
"""Settings that have had their effect when the trainer is built, or that reach it under another name."""


def make_arguments(config: type[Config], at: AtEnvironment, folder: Path) -> Config:
    """An instance of TRL's config for this run, with checkpoints under `folder`.

    Raises ModelError where transformers refuses a value or a combination of them.
    """
    written = at.file.recipe.training
    decided: dict[str, Any] = {
        "output_dir": str(folder / "checkpoints"),
        "report_to": "none",  # ftrun has its own record
        "logging_nan_inf_filter": False,  # the filter shows the running mean where the loss is NaN
        "dataset_kwargs": {"skip_prepare_dataset": True},  # rows are tokenised already
        "disable_tqdm": True,
        "bf16": choose_bf16(at),
        "dataloader_pin_memory": bool(at.machine.devices),
        # transformers 5.23 calls the setting by another name than TRL, and warns of TRL's at every run.
        "activation_checkpointing": at.recipe.training["gradient_checkpointing"],
        "activation_checkpointing_kwargs": at.recipe.training["gradient_checkpointing_kwargs"],
    }
    names = {field.name for field in fields(cast(Any, config))}
    decided = {key: value for key, value in decided.items() if key in names}  # not every config has them all
    try:
        return config(**{**decided, **{key: value for key, value in written.items() if key not in SPENT}})
    except (ValueError, TypeError, ImportError) as error:
        raise ModelError(f"training: {first_line(error)}") from error


def count_steps(training: Mapping[str, Any], rows: int) -> int:
    """Optimizer steps of a run over `rows` rows of its data set, by the arithmetic of
    `Trainer.set_initial_training_values` on one process."""
    if training["max_steps"] > 0:
        return int(training["max_steps"])
    batch = training["per_device_train_batch_size"]
    batches = rows // batch if training["dataloader_drop_last"] else ceil(rows / batch)
    updates: int = max(1, ceil(batches / training["gradient_accumulation_steps"]))
    epochs: float = training["num_train_epochs"]
    return ceil(epochs * updates)


def choose_bf16(at: AtEnvironment) -> bool:
    """Whether forward passes run in bfloat16 where the recipe leaves it open: where every device has it."""
    written = at.file.recipe.training
    if written.get("bf16") is not None:
        return bool(written["bf16"])
    if written.get("fp16") or written.get("use_cpu"):
        return False
    return bool(at.machine.devices) and all(device.bf16 for device in at.machine.devices)
