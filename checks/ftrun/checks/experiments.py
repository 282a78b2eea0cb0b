"""What a dry step and the experiments around it did, as the runner saw it before all was put back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Phase = Literal["batch", "forward", "backward", "update"]


@dataclass(frozen=True)
class Step:
    """What one step did, before everything was put back."""

    failed: Phase | None = None
    """The first phase that raised."""

    error: BaseException | None = None
    batch: Mapping[str, Any] | None = None
    """The collated batch, as the data loader gave it."""

    loss: float | None = None
    gradients: Mapping[str, float | None] | None = None
    """Norm of the gradient of each trainable parameter before clipping; None where there is none."""

    changed: frozenset[str] | None = None
    """Parameters that the optimizer step changed, of all parameters of the model."""

    changed_share: float | None = None
    """Share of the trainable elements with a gradient other than zero whose value that step changed."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    """What TRL's trainer collected in the forward pass for its next log, by its names."""

    reference_changed: frozenset[str] | None = None
    """Parameters that the optimizer step changed of a reference that is a model of its own."""


@dataclass(frozen=True)
class LongestBatch:
    """What a forward and backward pass on the longest rows did, with the optimizer's state in memory."""

    rows: int
    tokens: int
    """Tokens of the longest row."""

    peak: int
    """Bytes allocated on the device at most."""

    total: int
    """Bytes of the device."""

    error: BaseException | None = None


@dataclass(frozen=True)
class Learning:
    """What optimizer steps on a few short rows of the first batch did, from the start of the run, at the peak rate.

    Pairs of numbers are those before the first step and after the last one, in evaluation.
    """

    losses: tuple[float, ...]
    """The loss of training at each step."""

    evaluated: tuple[float, float]
    """The loss of these rows."""

    accuracy: tuple[float, float] | None
    """The share of its pairs whose chosen side is the better one, where the batch holds pairs."""

    moved: float
    """How far the trained weights are from where they were, as a share of their norm."""

    floor: float
    """The lowest loss that the batch allows: above 0 where what is equal so far goes on differently."""

    own: tuple[float, float] | None = None
    """What the answers cost, in nats per token or answer: with their own prompts …"""

    exchanged: tuple[float, float] | None = None
    """… and with each other's. None where prompts cannot be exchanged."""

    kept: str = ""
    """Why prompts are not exchanged."""


@dataclass(frozen=True)
class Experiments:
    """What the model shows when it is asked twice in other ways, after one optimizer step; all is put back.

    An experiment that was not made is None, and `skipped` has the reason under its name.
    """

    updated: tuple[float, float] | None = None
    """The loss of the first batch, and after one optimizer step on it at the peak learning rate."""

    repeated: tuple[float, float] | None = None
    """The loss of the first batch in evaluation, twice."""

    divided: tuple[float, float] | None = None
    """The loss of the first batch, and that of its two halves, weighed by their trained tokens."""

    accumulated: tuple[float, float] | None = None
    """What the first batch gives to the loss of an optimizer step of several, and its share of their tokens
    times its own loss."""

    packed: float | None = None
    """The largest change of a logit of the second document of a pack when the first is another."""

    reloaded: tuple[float, float] | None = None
    """The largest difference between the logits of the model, its trained weights moved, and of the same model
    saved and loaded; and how far moving the weights changed the logits."""

    tokenizer: tuple[str, ...] | None = None
    """What is otherwise in the tokenizer once it is saved and loaded."""

    longest: LongestBatch | None = None
    learnt: Learning | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)
