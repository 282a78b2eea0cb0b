"""What a plan says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ftrun.checks.rows import SourceCount
from ftrun.runner.plan.calendar import Calendar
from ftrun.runner.plan.memory import Memory
from ftrun.runner.plan.settings import Setting


@dataclass(frozen=True)
class Source:
    """A source of rows: what became of them, and how they are read."""

    count: SourceCount
    format: str
    loss_on: str
    loss_reason: str


@dataclass(frozen=True)
class Batches:
    """Micro-batches of an epoch, as the sampler and the collator of the run make them."""

    number: int
    """Micro-batches of an epoch; for PPO, rollouts."""

    seen: int
    """How many of them were collated to measure what follows."""

    tokens: int
    """Tokens of the rows in them."""

    padding: int
    """Places in them that hold no token of a row."""

    longest: int
    """Tokens of the longest row in all of the data."""

    @property
    def waste(self) -> float:
        """The share of all places that is padding."""
        return self.padding / max(1, self.padding + self.tokens)


@dataclass(frozen=True)
class Schedule:
    """The learning rate over the run: factors of its peak, at steps that are spread evenly."""

    kind: str
    peak: float
    factors: tuple[float, ...]


@dataclass(frozen=True)
class Parameters:
    """Parameters of the models that train, and the bytes of a checkpoint on disk."""

    trained: int
    total: int
    how: str
    """`full` or `LoRA`."""

    checkpoint: int


@dataclass(frozen=True)
class Duration:
    """Seconds, measured on this machine with the batches that come first."""

    micro_batch: float
    """A forward and a backward pass."""

    update: float
    """Clipping and the optimizer's step."""

    rollout: float
    """PPO: the answers to a rollout's prompts, and what the models say of them."""

    evaluation: float
    """All evaluations together."""

    total: float
    """The whole run."""


@dataclass(frozen=True)
class Gap:
    """What could not be told, and why."""

    what: str
    why: str


@dataclass(frozen=True)
class Plan:
    """What a run would do. None stands where it could not be told: `gaps` has the reason."""

    recipe: str
    pipeline: str | None
    pipeline_stage: str | None
    method: str
    stage: str
    """The last stage that was built."""

    settings: tuple[Setting, ...]
    sources: tuple[Source, ...] = ()
    batches: Batches | None = None
    calendar: Calendar | None = None
    schedule: Schedule | None = None
    parameters: Parameters | None = None
    memory: Memory | None = None
    duration: Duration | None = None
    notes: tuple[str, ...] = ()
    """What the prediction leaves out."""

    gaps: tuple[Gap, ...] = ()

    def as_data(self) -> Mapping[str, Any]:
        """The plan as JSON has it (docs/json.md)."""
        data = asdict(self)
        if self.batches is not None:
            data["batches"]["waste"] = self.batches.waste
        if self.memory is not None:
            data["memory"]["room"]["usable"] = self.memory.room.usable
            data["memory"]["fits"] = self.memory.fits
        return data
