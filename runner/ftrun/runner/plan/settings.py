"""The settings of a run that matter or were written, each with where it came from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftrun.checks.stages import AtData, AtEnvironment, AtRecipe
from ftrun.runner.batch import count_processes
from ftrun.runner.tuning.rules import CHECKPOINTING
from ftrun.schemas.layers import TEAM
from ftrun.schemas.mistake import Where
from ftrun.schemas.nodes import Keys, dotted
from ftrun.schemas.overrides import FILE

TOLD_ELSEWHERE = frozenset({"extends", "name", "method", "data", "preflight", "tracking", "output"})
"""Keys that are no settings of the training, or that the plan tells in another place."""

MATTER = (
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_length",
    "packing",
    "optim",
    "weight_decay",
    "max_grad_norm",
    "gradient_checkpointing",
    "seed",
)
METHODS: Mapping[str, tuple[str, ...]] = {
    "sft": (),
    "reward": ("center_rewards_coefficient",),
    "dpo": ("beta", "loss_type", "precompute_ref_log_probs"),
    "ppo": ("kl_coef", "kl_target", "num_ppo_epochs", "num_mini_batches", "response_length", "temperature"),
}
"""Settings of `training:` that are told even where a recipe leaves them open, of every method and of each."""

OWNERS = {"sft": "TRL", "reward": "TRL", "dpo": "TRL", "ppo": "ftrun"}
"""Whose defaults `training:` has."""


@dataclass(frozen=True)
class Setting:
    """A setting as it will hold."""

    key: str
    value: Any
    origin: str
    """`recipe.yaml:12`, `extends base.yaml:3`, `--set`, `default of TRL`, `derived: 2 × 4 = 8`, or `chosen: ` and the
    reason."""


def list_settings(at: AtRecipe, pipeline: str | None, scratch: Path) -> list[Setting]:
    """What is written, in the order of the files, then the defaults that matter and are not chosen. `scratch` holds
    what stands for the models of a pipeline's earlier stages, each under the stage's name."""
    return [*_written(at, pipeline, f"{scratch}{os.sep}"), *_defaults(at)]


def _written(at: AtRecipe, pipeline: str | None, scratch: str) -> Iterator[Setting]:
    tree = _renamed(at.file.recipe.model_dump(), scratch)
    for keys in at.file.origins:
        if not keys or keys[0] in TOLD_ELSEWHERE:
            continue
        value = _value(tree, keys)
        if isinstance(value, dict) or any(
            isinstance(_value(tree, keys[:n]), list) for n in range(1, len(keys))
        ):
            continue  # told by its keys, or as a whole
        yield Setting(dotted(keys), value, describe_origin(at.file.origins[keys], at.file.path, pipeline))


def _defaults(at: AtRecipe) -> Iterator[Setting]:
    training, method = at.recipe.training, at.recipe.method
    chosen = {one.key for one in at.choices} if isinstance(at, AtData) else {CHECKPOINTING}
    for name in (*MATTER, *METHODS[method]):
        is_open = ("training", name) not in at.file.origins and name in training
        if is_open and f"training.{name}" not in chosen and not (name == "max_steps" and training[name] <= 0):
            yield Setting(f"training.{name}", training[name], f"default of {OWNERS[method]}")


def list_choices(at: AtRecipe) -> list[Setting]:
    """What is chosen for the device, the model and the data, as far as those are known."""
    if isinstance(at, AtData):
        return [Setting(one.key, one.value, f"chosen: {one.reason}") for one in at.choices]
    if ("training", "gradient_checkpointing") in at.file.origins:
        return []
    return [Setting(CHECKPOINTING, "auto", "chosen with the data: on where a GPU's memory needs it")]


def derive_settings(at: AtEnvironment) -> list[Setting]:
    """What follows from the settings and the machine."""
    from ftrun.runner.arguments import choose_bf16
    from ftrun.runner.model import choose_dtype

    training = at.recipe.training
    rows, steps = training["per_device_train_batch_size"], training["gradient_accumulation_steps"]
    processes = count_processes(at.recipe)
    what = "answers" if at.recipe.method == "ppo" else "rows" if at.recipe.method == "sft" else "pairs"
    found = [
        Setting(
            "effective batch",
            f"{rows * steps * processes} {what}",
            f"derived: {rows} × {steps} × {processes} process{'es' * (processes > 1)} = {rows * steps * processes}",
        )
    ]
    if at.recipe.method == "ppo":
        parts = training["num_mini_batches"]
        size = rows * steps * parts
        found.append(
            Setting("rollout", f"{size} prompts", f"derived: {rows} × {steps} × {parts} minibatches = {size}")
        )
    where = at.machine.devices[0].name if at.machine.devices else "the CPU"
    if at.recipe.model.dtype == "auto":
        why = "the frozen base under LoRA" if at.recipe.model.lora is not None else "trained whole"
        dtype = choose_dtype(at.recipe.model, at.machine)
        found.append(Setting("weights", dtype, f"derived: {why}, on {where}"))
    if training["bf16"] is None:
        precision = "bfloat16" if choose_bf16(at) else "float16" if training["fp16"] else "as the weights"
        found.append(Setting("forward passes", precision, f"derived: what {where} has"))
    return found


def describe_origin(where: Where, recipe: Path, pipeline: str | None) -> str:
    """Where a value was written, as seen from the recipe."""
    if where.file is None or where.file == FILE:
        return FILE
    if where.file.startswith(TEAM):
        return f"extends {where.file}:{where.line}"
    place = f"{os.path.relpath(where.file, recipe.parent)}:{where.line}"
    if where.file == pipeline:
        return f"set in {place}"
    return place if Path(where.file) == recipe else f"extends {place}"


def _renamed(tree: Any, scratch: str) -> Any:
    """The tree with `stage:NAME` for what stands for the model of that stage."""
    if isinstance(tree, dict):
        return {key: _renamed(value, scratch) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_renamed(value, scratch) for value in tree]
    return (
        f"stage:{tree.removeprefix(scratch)}" if isinstance(tree, str) and tree.startswith(scratch) else tree
    )


def _value(tree: Any, keys: Keys) -> Any:
    for key in keys:
        tree = tree[key]
    return tree
