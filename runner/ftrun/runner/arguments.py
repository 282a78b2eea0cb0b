"""The trainer's arguments: what the recipe writes under `training:`, and what ftrun decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from math import ceil
from pathlib import Path
from typing import Any, TypeVar, cast

from ftrun.checks.stages import AtData, AtEnvironment
from ftrun.runner.launching.sharding import allow_cpu, choose_strategy
from ftrun.runner.ranks import count_ranks
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


def make_arguments(config: type[Config], at: AtData, folder: Path) -> Config:
    """An instance of TRL's config for this run, with checkpoints under `folder`.

    Raises ModelError where transformers refuses a value or a combination of them.
    """
    chosen = {one.key.removeprefix("training.") for one in at.choices}
    settled = {
        key: value
        for key, value in at.recipe.training.items()
        if key in chosen or key in at.file.recipe.training
    }
    decided: dict[str, Any] = {
        "output_dir": str(folder / "checkpoints"),
        "report_to": "none",  # ftrun has its own record
        "logging_nan_inf_filter": False,  # the filter shows the running mean where the loss is NaN
        "dataset_kwargs": {"skip_prepare_dataset": True},  # rows are tokenised already
        "disable_tqdm": True,
        "bf16": choose_bf16(at),
        "dataloader_pin_memory": bool(at.machine.devices),
        # transformers would otherwise take each of several processes without a GPU for a run of its own.
        "use_cpu": count_ranks() > 1 and not at.machine.devices,
        "ddp_find_unused_parameters": _may_leave_out(at),
        # transformers 5.23 calls the setting by another name than TRL, and warns of TRL's at every run.
        "activation_checkpointing": at.recipe.training["gradient_checkpointing"],
        "activation_checkpointing_kwargs": at.recipe.training["gradient_checkpointing_kwargs"],
    }
    names = {field.name for field in fields(cast(Any, config))}
    decided = {key: value for key, value in decided.items() if key in names}  # not every config has them all
    given = {**decided, **{key: value for key, value in settled.items() if key not in SPENT}}
    try:
        arguments = config(**{**given, **choose_strategy(at.recipe.launch.strategy, given)})
    except (ValueError, TypeError, ImportError) as error:
        raise ModelError(f"training: {first_line(error)}") from error
    # A process trains on one device: of several that it sees, transformers would make an nn.DataParallel.
    cast(Any, arguments)._n_gpu = min(1, cast(Any, arguments).n_gpu)
    allow_cpu(arguments)
    return arguments


def _may_leave_out(at: AtEnvironment) -> bool | None:
    """Whether a step may leave parameters without a gradient, for which DDP walks through the graph of every step;
    None leaves it to transformers. Experts may be left out; a parameter that no step reaches is found before."""
    if not isinstance(at, AtData) or at.recipe.method == "ppo":
        return None
    return any("expert" in key for key in at.model_config.to_dict())


def count_steps(training: Mapping[str, Any], rows: int, processes: int) -> int:
    """Optimizer steps of a run over `rows` rows of its data set, by the arithmetic of
    `Trainer.set_initial_training_values`. Each process has as many batches as the others: where they do not come out
    even, accelerate repeats rows, or leaves some out with `dataloader_drop_last`."""
    if training["max_steps"] > 0:
        return int(training["max_steps"])
    batch = training["per_device_train_batch_size"]
    drop = training["dataloader_drop_last"]
    batches = rows // batch // processes if drop else ceil(ceil(rows / batch) / processes)
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
