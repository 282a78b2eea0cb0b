"""What guards are given: checks that run while a recipe trains, of the numbers that training really made.

A guard is a check whose stage is one of these. What happens when it finds something is its `action` in the recipe's
`guards:`, under the guard's own name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ftrun.schemas.load import RecipeFile
from ftrun.schemas.mistake import Where
from ftrun.schemas.sections import BaseRecipe


@dataclass(frozen=True)
class Update:
    """One optimizer step."""

    step: int
    """From 1."""

    loss: float
    """Of this step alone, as it was computed: nothing that is not a number is replaced."""

    gradient_norm: float
    """Before clipping."""


@dataclass(frozen=True)
class Evaluation:
    """One evaluation."""

    step: int
    metrics: Mapping[str, float]
    """As the trainer names them: `eval_loss`."""

    training_loss: float
    """The mean over the steps since the last evaluation."""


@dataclass(frozen=True, eq=False, repr=False)
class Training:
    """A recipe that is being trained."""

    recipe: BaseRecipe
    file: RecipeFile

    def where(self, key: str) -> Where:
        """The place of a dotted key in the recipe, or of its nearest parent that is written."""
        return self.file.where(key)


@dataclass(frozen=True, eq=False, repr=False)
class AtUpdate(Training):
    """Behind an optimizer step."""

    updates: Sequence[Update]
    """Since the start or the last rollback; the last one has just been made."""


@dataclass(frozen=True, eq=False, repr=False)
class AtEvaluation(Training):
    """Behind an evaluation."""

    evaluations: Sequence[Evaluation]


@dataclass(frozen=True, eq=False, repr=False)
class AtFailure(Training):
    """Behind an exception that ended training."""

    error: BaseException
    step: int
    """Steps that were made."""
