"""What the trainer logs, into the record."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

    from ftrun.runner.tracking.run import TrackedRun


def make_callback(run: TrackedRun) -> TrainerCallback:
    """A trainer callback that writes every logged number to `run`, from the main process only."""
    from transformers import TrainerCallback

    class LogToRun(TrainerCallback):  # type: ignore[misc, unused-ignore]  # transformers is untyped here
        def on_log(
            self,
            args: TrainingArguments,
            state: TrainerState,
            control: TrainerControl,
            logs: Mapping[str, Any] | None = None,
            **kwargs: Any,
        ) -> None:
            metrics = name_metrics(logs or {})
            if metrics and state.is_world_process_zero:
                run.log(state.global_step, metrics)

    return LogToRun()


def name_metrics(logs: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of one log call, under `eval/` when it reports an evaluation and under `train/` otherwise.

    An evaluation is known by its keys (`eval_loss`); what is logged along with them (`epoch`) belongs to it.
    Values that are no numbers are left out.
    """
    folder = "eval" if any(key.startswith("eval_") for key in logs) else "train"
    numbers = {key: _as_float(value) for key, value in logs.items()}
    return {
        f"{folder}/{key.removeprefix('eval_')}": value for key, value in numbers.items() if value is not None
    }


def _as_float(value: Any) -> float | None:
    if isinstance(value, Real):
        return float(value)
    if getattr(value, "ndim", None) == 0 and not isinstance(value, str):  # a tensor or array of one number
        return float(value)
    return None
