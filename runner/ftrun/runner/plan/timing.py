"""How long a run takes, from a few of its steps on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from statistics import fmean, median
from typing import Any

import torch

from ftrun.checks.stages import AtModel
from ftrun.runner.plan.calendar import Calendar, eval_batches
from ftrun.runner.plan.outline import Duration
from ftrun.runner.ppo.schedule import measure_rollout
from ftrun.runner.step import checkpointed
from ftrun.runner.trial import advance, differentiate

STEPS = 3
"""Steps that are timed, behind one that warms up."""


def time_run(at: AtModel, calendar: Calendar) -> Duration:
    """Take a few steps of training and add up what the whole run takes of them. The model is trained by it."""
    trainer = at.trainer
    batches = _spread_batches(at)
    passes, updates, rollout = [], [], 0.0
    with checkpointed(trainer):
        for number, batch in enumerate(batches):
            if number == 0 and at.recipe.method == "ppo":
                rollout = _time(trainer, partial(differentiate, trainer, batches[0]))
            passes.append(_time(trainer, partial(differentiate, trainer, batch)))
            updates.append(_time(trainer, lambda: advance(trainer)))
            trainer.model.zero_grad(set_to_none=True)
    micro, update = fmean(passes[1:] or passes), median(updates[1:] or updates)
    training = at.recipe.training
    total = calendar.steps * (training["gradient_accumulation_steps"] * micro + update)
    if at.recipe.method == "ppo":
        per_rollout = training["num_ppo_epochs"] * training["num_mini_batches"]
        rollout = max(0.0, rollout - micro)
        total += calendar.steps / per_rollout * rollout
    evaluation = _guess_evaluations(at, calendar, micro, rollout)
    return Duration(micro, update, rollout, evaluation, total + evaluation)


def _spread_batches(at: AtModel) -> list[Any]:
    """The first micro-batch, and as many of the first update as are timed, from its longest to its shortest."""
    accumulation = 1 if at.recipe.method == "ppo" else at.recipe.training["gradient_accumulation_steps"]
    first = list(islice(iter(at.trainer.get_train_dataloader()), max(STEPS + 1, accumulation)))
    if len(first) <= STEPS + 1:
        return first
    return [first[0], *(first[(2 * part + 1) * len(first) // (2 * STEPS)] for part in range(STEPS))]


def _guess_evaluations(at: AtModel, calendar: Calendar, micro: float, rollout: float) -> float:
    """A forward pass is a third of a pass with gradients, row by row; PPO answers its evaluation prompts."""
    if at.eval is None:
        return 0.0
    rows, training = len(at.eval) // at.eval.sides, at.recipe.training
    if at.recipe.method == "ppo":
        return len(calendar.evaluations) * rollout * rows / measure_rollout(training)
    sizes: tuple[int, int] = (training["per_device_eval_batch_size"], training["per_device_train_batch_size"])
    per_batch = micro / 3 * sizes[0] / sizes[1]
    return len(calendar.evaluations) * eval_batches(at, rows) * per_batch


def _time(trainer: Any, work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    if trainer.args.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began
