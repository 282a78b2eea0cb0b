"""What guards of the optimisation are given besides losses: looks at gradients and weights, and causes that were tried.

Looks are taken at a cadence of about a hundred in a run. Stages are as in `ftrun.checks.training`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ftrun.checks.parameters import plain_name
from ftrun.checks.training import History, Training

LAYER = re.compile(r"(.*?)\.(\d+)(?:\.|$)")


class Layer(NamedTuple):
    """A numbered layer of a stack of layers, or a module that stands alone, as embeddings and heads do."""

    stack: str
    number: int | None

    def __str__(self) -> str:
        return self.stack if self.number is None else f"{self.stack}.{self.number}"


def layer_of(parameter: str) -> Layer:
    """The layer that a parameter of this name belongs to: `model.layers.3` of `model.layers.3.mlp.up_proj.weight`."""
    name = plain_name(parameter)
    found = LAYER.match(name)
    return Layer(found[1], int(found[2])) if found else Layer(name.rpartition(".")[0] or name, None)


@dataclass(frozen=True)
class Look:
    """What a look at the weights and gradients of one update showed."""

    step: int
    gradients: Mapping[Layer, float]
    """Norm of the gradient in each trained layer, as the optimizer is given it. Empty where the look was at the weights
    alone, before a checkpoint."""

    still: frozenset[Layer]
    """Layers of which no matrix moved since the look before, although each was given a gradient and a rate; judged by
    a sample of each."""

    frozen_moved: tuple[str, ...]
    """Tensors that are not trained, and differ from what they were when training began; judged by a sample of each."""

    not_finite: tuple[str, ...]
    """Trained tensors that hold a value that is no number."""

    jumped: Mapping[str, float] = field(default_factory=dict)
    """Trained tensors of which a value moved farther since the look before than the optimizer can take it, at the
    recipe's rate: how many times as far, judged by a sample of each."""


@dataclass(frozen=True)
class Changed:
    """A number that is no weight, and is not to change."""

    name: str
    before: float
    now: float


@dataclass(frozen=True, eq=False, repr=False)
class AtSettings(Training):
    """Behind an update whose settings are not those of the first."""

    step: int
    changed: Sequence[Changed]


@dataclass(frozen=True, eq=False, repr=False)
class AtLook(Training):
    """Behind a look."""

    looks: Sequence[Look]
    """The last ones."""


@dataclass(frozen=True)
class Cause:
    """Why the loss does not fall, as it was found by trying."""

    what: str
    fix: str
    key: str
    """Of the recipe."""

    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, repr=False)
class AtProgress(Training):
    """Some way into a run, at a cadence."""

    updates: History
    first: Sequence[float]
    """The losses of the first updates of the run."""

    warmup: int
    """Updates in which the rate rises to its peak."""

    steps: int
    """Updates of the whole run."""

    find_cause: Callable[[], Cause | None]
    """Tries, with the trainer as it is and all put back, what keeps the loss where it is; None where training is as it
    should be, and the text is known. Dear: for a loss that does not fall."""
