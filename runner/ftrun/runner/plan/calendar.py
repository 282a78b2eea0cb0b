"""When things happen in a run: steps, evaluations and checkpoints, by transformers' own callback."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ftrun.checks.schedule import count_warmup, every
from ftrun.checks.stages import AtData, AtRecipe
from ftrun.runner.batch import count_processes
from ftrun.schemas.sections import BaseRecipe


@dataclass(frozen=True)
class Calendar:
    """The steps of a run and what is done after which of them."""

    steps: int
    arithmetic: str
    evaluations: tuple[int, ...]
    """The steps after which the evaluation rows are evaluated."""

    saves: tuple[int, ...]
    """The steps after which a checkpoint is written."""

    kept: int
    """Checkpoints on disk at most."""

    warmup: int
    """Steps in which the learning rate rises."""


def make_calendar(at: AtData) -> Calendar:
    """The calendar of a run over the rows of its data."""
    from transformers import TrainerControl, TrainerState
    from transformers.trainer_callback import DefaultFlowCallback

    training = at.recipe.training
    epoch = count_epoch(at.recipe, len(at.train_dataset))
    arguments: Any = _flow_settings(training, at.steps, has_eval=at.eval is not None)
    state = TrainerState(max_steps=at.steps, eval_steps=arguments.eval_steps, save_steps=arguments.save_steps)
    state.logging_steps, flow, control = 0, DefaultFlowCallback(), TrainerControl()
    evaluations, saves = [], []
    for step in range(1, at.steps + 1):
        state.global_step, state.epoch = step, step / epoch
        control.should_evaluate = control.should_save = False
        flow.on_step_end(arguments, state, control)
        if step % epoch == 0 or step == at.steps:
            flow.on_epoch_end(arguments, state, control)
        evaluations += [step] if control.should_evaluate else []
        saves += [step] if control.should_save else []
    limit = training["save_total_limit"]
    # The best one stays beside the newest where it is to be loaded at the end.
    kept = (
        len(saves) if limit is None else min(len(saves), max(limit, 1 + training["load_best_model_at_end"]))
    )
    return Calendar(
        steps=at.steps,
        arithmetic=_describe(at),
        evaluations=tuple(evaluations),
        saves=tuple(saves),
        kept=kept,
        warmup=count_warmup(training, at.steps),
    )


@dataclass(frozen=True)
class _Flow:
    """The settings that the callback reads."""

    eval_strategy: str
    eval_steps: int
    eval_delay: float
    save_strategy: str
    save_steps: int
    logging_strategy: str = "no"
    logging_first_step: bool = False
    logging_steps: int = 0


def _flow_settings(training: Mapping[str, Any], steps: int, *, has_eval: bool) -> _Flow:
    interval = training["eval_steps"] or training["logging_steps"]
    return _Flow(
        eval_strategy=training["eval_strategy"] if has_eval else "no",
        eval_steps=every(interval, steps),
        eval_delay=training["eval_delay"],
        save_strategy=training["save_strategy"],
        save_steps=every(training["save_steps"], steps),
    )


def count_epoch(recipe: BaseRecipe, rows: int) -> int:
    """Optimizer steps of an epoch, as the method's own `count_steps` has them."""
    from ftrun.runner.arguments import count_steps
    from ftrun.runner.ppo.schedule import count_steps as count_updates

    once = {**recipe.training, "max_steps": -1, "num_train_epochs": 1}
    if recipe.method == "ppo":
        return count_updates(once, rows, count_processes(recipe))
    return count_steps(once, rows, count_processes(recipe))


def _describe(at: AtData) -> str:
    """The arithmetic of the number of steps."""
    training, rows = at.recipe.training, len(at.train_dataset)
    if training["max_steps"] > 0:
        epochs = training["max_steps"] / count_epoch(at.recipe, rows)
        return f"max_steps = {training['max_steps']:,}, {epochs:.2f} epochs"
    size, accumulation = training["per_device_train_batch_size"], training["gradient_accumulation_steps"]
    epochs, epoch = f"{training['num_train_epochs']:g}", count_epoch(at.recipe, rows)
    if at.recipe.method == "ppo":
        from ftrun.runner.ppo.schedule import count_rollouts, measure_rollout

        passes, parts = training["num_ppo_epochs"], training["num_mini_batches"]
        rollout = measure_rollout(training) * count_processes(at.recipe)
        return (
            f"{rows:,} prompts ÷ {rollout} = {count_rollouts(rows, rollout)} rollouts; × {passes} passes × {parts} "
            f"minibatches = {epoch:,} steps an epoch; × {epochs} epochs = {at.steps:,}"
        )
    batches = rows // size if training["dataloader_drop_last"] else math.ceil(rows / size)
    processes = count_processes(at.recipe)
    shared = f"; ÷ {processes} processes" if processes > 1 else ""
    return (
        f"{rows:,} rows ÷ {size} = {batches:,} batches{shared}; ÷ {accumulation} = {epoch:,} steps an epoch; "
        f"× {epochs} epochs = {at.steps:,}"
    )


def eval_batches(at: AtRecipe, rows: int) -> int:
    """Batches of an evaluation."""
    return math.ceil(rows / int(at.recipe.training["per_device_eval_batch_size"]))
