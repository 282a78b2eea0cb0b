"""A run as a store tells it at once: its name, how it stands, its latest numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ftrun.runner.story.life import Life
from ftrun.runner.tracking.ledger import DISAPPEARED, FAILURE_TAG, Status

State = Literal["running", "silent", "dead", "finished", "failed", "interrupted", "killed"]
Latest = Mapping[str, tuple[int, float]]
"""The last value of each metric, with its step."""

INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Run:
    """A run, with the truth about its state. Times are in milliseconds since the epoch, 0 where there is none."""

    name: str
    run_id: str
    """MLflow's id, empty where the store has not answered yet."""

    experiment: str
    status: Status
    """As it is recorded."""

    life: Life
    """Whether a process is behind it, where it is recorded as running."""

    started: int
    ended: int
    folder: Path | None
    """The run folder, where it is on this machine."""

    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    latest: Latest = field(default_factory=dict)
    last_sign: int = 0
    """The last heartbeat or metric."""

    parent: str = ""
    """MLflow's id of the pipeline's run that this one is a stage of."""

    @property
    def state(self) -> State:
        """How the run stands: a run that is recorded as running and has no process is dead, one of another machine
        that gives no sign of life is silent, one that was asked to stop is interrupted."""
        if self.status == "RUNNING":
            states: Mapping[Life, State] = {"alive": "running", "gone": "dead", "silent": "silent"}
            return states[self.life]
        if self.status == "KILLED" and self.failure != DISAPPEARED:
            return "interrupted"
        ends: Mapping[Status, State] = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "killed"}
        return ends[self.status]

    @property
    def failure(self) -> str:
        """Why it did not finish, as it is recorded; empty where nothing is."""
        return self.tags.get(FAILURE_TAG, "")

    @property
    def method(self) -> str:
        """`sft`, `reward`, `dpo`, `ppo`, or `pipeline`."""
        return self.tags.get("ftrun.method") or ("pipeline" if self.is_pipeline else "")

    @property
    def is_pipeline(self) -> bool:
        return self.tags.get("ftrun.kind") == "pipeline"

    @property
    def recipe(self) -> str:
        """The name of the recipe or pipeline."""
        return self.tags.get("ftrun.recipe.name") or self.params.get("name", "")

    @property
    def adaptation(self) -> str:
        """How the weights train: `full`, `LoRA`, or `QLoRA`."""
        if not any(key.startswith("model.lora.") for key in self.params):
            return "full"
        return "LoRA" if self.params.get("model.quantization", "null") == "null" else "QLoRA"

    @property
    def step(self) -> int:
        """The last step of which something was logged, 0 where there is none."""
        logged = (step for name, (step, _) in self.latest.items() if name.startswith(("train/", "eval/")))
        return max(logged, default=0)

    @property
    def steps(self) -> int | None:
        """How many steps it was to take, None where that is not known."""
        limit = int(_number(self.params.get("training.max_steps")) or -1)
        if limit > 0:
            return limit
        epochs, epoch = _number(self.params.get("training.num_train_epochs")), self.latest.get("train/epoch")
        if epochs is None or epoch is None or not epoch[1] > 0 or not epoch[0]:
            return None
        return math.ceil(epoch[0] * epochs / epoch[1] - 1e-6)

    @property
    def guard_events(self) -> int:
        """How often guards spoke."""
        count = self.tags.get("ftrun.guards", "").partition(" ")[0]
        return int(count) if count.isdecimal() else 0

    def seconds(self, now: int) -> float:
        """How long it took, or has been going on; of a dead run until its last sign of life."""
        end = self.ended or (now if self.state == "running" else max(self.last_sign, self.started))
        return max(0.0, (end - self.started) / 1000)

    def as_data(self, now: int) -> dict[str, Any]:
        """What JSON says of it."""
        return {
            "name": self.name,
            "run_id": self.run_id,
            "experiment": self.experiment,
            "recipe": self.recipe,
            "method": self.method,
            "adaptation": None if self.is_pipeline else self.adaptation,
            "state": self.state,
            "mlflow_status": self.status,
            "failure": self.failure or None,
            "started": self.started,
            "seconds": round(self.seconds(now), 3),
            "step": self.step,
            "steps": self.steps,
            "guard_events": self.guard_events,
            "folder": None if self.folder is None else str(self.folder),
        }


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None
