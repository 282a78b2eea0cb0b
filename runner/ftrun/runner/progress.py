"""Lines on the terminal while a run trains."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import TrainerCallback, TrainerState

SHOWN = {
    "loss": "loss",
    "eval_loss": "eval loss",
    "grad_norm": "gradient",
    "mean_token_accuracy": "token accuracy",
    "accuracy": "accuracy",
    "eval_accuracy": "accuracy",
    "rewards/accuracies": "preferred",
    "eval_rewards/accuracies": "preferred",
    "eval_kl": "KL",
}


def make_callback(console: Console) -> TrainerCallback:
    """A callback that prints one line whenever the trainer logs."""
    from transformers import TrainerCallback

    class PrintProgress(TrainerCallback):  # type: ignore[misc, unused-ignore]  # transformers is untyped here
        began = 0.0

        def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
            self.began = time.monotonic()

        def on_log(
            self,
            args: Any,
            state: TrainerState,
            control: Any,
            logs: Mapping[str, Any] | None = None,
            **kwargs: Any,
        ) -> None:
            if logs and state.is_world_process_zero and ("loss" in logs or "eval_loss" in logs):
                console.print(
                    describe_log(logs, state.global_step, state.max_steps, time.monotonic() - self.began)
                )

    return PrintProgress()


def describe_log(logs: Mapping[str, Any], step: int, steps: int, seconds: float) -> str:
    """`step 20/120  loss 0.5312  …  rate 1.0e-03  1:40 left`."""
    parts = [f"step {step:>{len(str(steps))}}/{steps}"]
    parts += [f"{name} {logs[key]:.4f}" for key, name in SHOWN.items() if isinstance(logs.get(key), float)]
    if isinstance(logs.get("learning_rate"), float):
        parts.append(f"rate {logs['learning_rate']:.1e}")
    if step:
        left = round(seconds / step * (steps - step))
        parts.append(f"{left // 60}:{left % 60:02d} left")
    return "  ".join(parts)
