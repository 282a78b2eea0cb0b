"""What the PPO trainer adds to the course of training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

if TYPE_CHECKING:
    from transformers import TrainerControl

    from ftrun.runner.ppo.config import PPOConfig
    from ftrun.runner.ppo.trainer import PPOTrainer


def make_log_callback(trainer: PPOTrainer) -> TrainerCallback:
    """A callback that asks for a log whenever a rollout is used up, at whatever step that is."""

    class LogRollouts(TrainerCallback):  # type: ignore[misc, unused-ignore]  # transformers is untyped here
        def on_step_end(self, args: PPOConfig, state: Any, control: TrainerControl, **kwargs: Any) -> None:
            if trainer.ppo.used_up and args.logging_strategy != "no":
                control.should_log = True

    return LogRollouts()


def make_draw_callback() -> TrainerCallback:
    """A callback that has each process sample with random numbers of its own: the Trainer seeds all alike. The first
    keeps what it has, and where a run goes on, a checkpoint's random state comes after this."""

    class DrawApart(TrainerCallback):  # type: ignore[misc, unused-ignore]  # transformers is untyped here
        def on_train_begin(self, args: PPOConfig, state: Any, control: TrainerControl, **kwargs: Any) -> None:
            if args.process_index > 0:
                torch.manual_seed(args.seed + args.process_index)

    return DrawApart()


def make_place_callback(trainer: PPOTrainer) -> TrainerCallback:
    """A callback that brings the reference to the device: with FSDP the policy, whose copy it is, is there only when
    training begins, and checks ask both before."""

    class PlaceReference(TrainerCallback):  # type: ignore[misc, unused-ignore]  # transformers is untyped here
        def on_train_begin(self, args: PPOConfig, state: Any, control: TrainerControl, **kwargs: Any) -> None:
            if trainer.reference is not None:
                trainer.reference.to(args.device)

    return PlaceReference()
