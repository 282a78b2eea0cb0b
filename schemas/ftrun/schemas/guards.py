"""`guards:`, what watches a run while it trains: each guard under the name of its module in `ftrun.checks.guards`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ftrun.schemas.section import Section


class LossNotFinite(Section):
    """Loss or gradients that are no numbers."""

    action: Literal["warn", "stop", "rollback", False] = "rollback"
    """What happens then."""


class LossRunsAway(Section):
    """A loss that rises far above what it was, and does not come back."""

    action: Literal["warn", "stop", "rollback", False] = "rollback"
    """What happens then."""

    factor: float = Field(default=2.0, gt=1.0)
    """How many times its best the loss has to be, in the median over `window` steps."""

    rise: float = Field(default=1.5, gt=0.0)
    """And how far above its best, in nats."""

    window: int = Field(default=10, ge=3)
    """Steps over which medians are taken."""


class Overfitting(Section):
    """A loss that rises on held-out rows while it falls on those that train."""

    action: Literal["warn", "stop", False] = "warn"
    """What happens then. `stop` ends the run as finished: with `training.load_best_model_at_end` the best weights
    are the ones that are kept."""

    gap: float = Field(default=0.5, gt=0.0)
    """How far the loss on held-out rows is above the training loss, in nats."""


class MemoryRanOut(Section):
    """A step for which the device has not enough memory."""

    action: Literal["stop", "rollback", False] = "rollback"
    """`rollback` halves the micro-batch and doubles the accumulation, so that every step keeps its rows; and where
    the micro-batch is one row turns gradient checkpointing on."""


class Guards(Section):
    """What watches the run while it trains: each guard by its name, with its thresholds and its action. `warn` says it
    and goes on; `stop` ends the run as failed; `rollback` goes back to the last good checkpoint, or to the start where
    there is none, applies a remedy and goes on; `off`, which is YAML for false, does nothing."""

    loss_not_finite: LossNotFinite = Field(default_factory=LossNotFinite)
    """GUARD001."""

    loss_runs_away: LossRunsAway = Field(default_factory=LossRunsAway)
    """GUARD002."""

    overfitting: Overfitting = Field(default_factory=Overfitting)
    """GUARD003."""

    memory_ran_out: MemoryRanOut = Field(default_factory=MemoryRanOut)
    """GUARD009."""

    rollbacks: int = Field(default=3, ge=0)
    """How often a run may go back before it stops."""

    learning_rate_factor: float = Field(default=0.1, gt=0.0, le=1.0)
    """What the learning rate is multiplied by after a rollback for which no row is to blame."""

    max_grad_norm: float = Field(default=0.5, gt=0.0)
    """What gradients are clipped to after such a rollback, where they were not clipped to less."""
