"""Lines on the terminal while a run trains."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftrun.runner.printing.text import format_clock

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


@dataclass
class Pace:
    """How fast a run goes, from the lines that were written before."""

    first: int
    """The step that this process began at: a resumed run has made some before."""

    began: float
    """When, in seconds of the monotonic clock."""

    step: int
    tokens: float
    now: float
    """Step, TRL's count of tokens, and time of the last line."""

    def rate(self, step: int, tokens: float | None, now: float) -> str:
        """Tokens a second since the last line, or steps where the trainer does not count tokens."""
        seconds, unit = max(now - self.now, 1e-9), "steps"
        done = step - self.step
        if tokens is not None and tokens > self.tokens:
            done, unit = round(tokens - self.tokens), "tokens"
        self.step, self.tokens, self.now = step, tokens or self.tokens, now
        return f"{_short(done / seconds)} {unit}/s"

    def left(self, step: int, steps: int, now: float) -> str:
        """Time until the last step, minutes and seconds, by the steps that this process has made."""
        return format_clock((now - self.began) / max(step - self.first, 1) * (steps - step))


def make_callback(console: Console, count_events: Callable[[], int]) -> TrainerCallback:
    """A callback that prints one line whenever the trainer logs. `count_events` says how often guards spoke up."""
    from transformers import TrainerCallback

    class PrintProgress(TrainerCallback):  # type: ignore[misc, unused-ignore]  # transformers is untyped here
        pace = Pace(0, 0.0, 0, 0.0, 0.0)

        def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
            now = time.monotonic()
            self.pace = Pace(state.global_step, now, state.global_step, 0.0, now)

        def on_log(
            self,
            args: Any,
            state: TrainerState,
            control: Any,
            logs: Mapping[str, Any] | None = None,
            **kwargs: Any,
        ) -> None:
            if not logs or not state.is_world_process_zero or not ("loss" in logs or "eval_loss" in logs):
                return
            parts, now = [describe_log(logs, state.global_step, state.max_steps)], time.monotonic()
            if "loss" in logs and state.global_step > self.pace.step:
                parts.append(self.pace.rate(state.global_step, logs.get("num_tokens"), now))
                parts.append(f"{measure_memory(args.device) / 2**30:.1f} GiB")
            if state.global_step > self.pace.first:
                parts.append(f"{self.pace.left(state.global_step, state.max_steps, now)} left")
            if events := count_events():
                parts.append(f"{events} guard event{'s' if events > 1 else ''}")
            console.print("  ".join(parts))

    return PrintProgress()


def describe_log(logs: Mapping[str, Any], step: int, steps: int) -> str:
    """`step 20/120  loss 0.5312  …  rate 1.0e-03`."""
    parts = [f"step {step:>{len(str(steps))}}/{steps}"]
    parts += [f"{name} {logs[key]:.4f}" for key, name in SHOWN.items() if isinstance(logs.get(key), float)]
    if isinstance(logs.get("learning_rate"), float):
        parts.append(f"rate {logs['learning_rate']:.1e}")
    return "  ".join(parts)


def measure_memory(device: Any) -> int:
    """Bytes: the most that tensors took on a GPU; what the process takes where there is none."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    import psutil

    return int(psutil.Process().memory_info().rss)


def _short(number: float) -> str:
    """`0.83`, `41`, `12.3k`."""
    if number < 10:
        return f"{number:.2g}"
    return f"{number:.0f}" if number < 1000 else f"{number / 1000:.3g}k"
