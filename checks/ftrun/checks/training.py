"""What guards are given: checks that run while a recipe trains, of the numbers that training really made.

A guard is a check whose stage is one of these. What happens when it finds something is its `action` in the recipe's
`guards:`, under the guard's own name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

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


class History:
    """The updates since the start or the last rollback. What is asked of it costs the same after ten steps and after a
    million: the last KEPT updates are there, and of those before what is remembered of them."""

    KEPT = 10_000

    def __init__(self, updates: Iterable[Update] = ()) -> None:
        self._kept: list[Update] = []
        self._gone = 0
        self._lowest: dict[int, tuple[float, int]] = {}
        for update in updates:
            self.append(update)

    def append(self, update: Update) -> None:
        """Add the update that was made last."""
        self._kept.append(update)
        if len(self._kept) == 2 * self.KEPT:
            del self._kept[: self.KEPT]
            self._gone += self.KEPT

    def __len__(self) -> int:
        return self._gone + len(self._kept)

    def last(self, count: int) -> list[Update]:
        """The last `count` updates, or as many as there are; of more than KEPT at least those."""
        return self._kept[max(0, len(self._kept) - count) :]

    def lowest_median(self, window: int) -> float:
        """The lowest median loss of `window` steps in a row, those in the last `window` steps left out; infinite where
        there are none. Each is looked at once."""
        lowest, looked = self._lowest.get(window, (math.inf, window - 1))
        end = len(self) - window
        for stop in range(max(looked, self._gone + window - 1) + 1, end + 1):
            steps = self._kept[stop - window - self._gone : stop - self._gone]
            lowest = min(lowest, median(update.loss for update in steps))
        self._lowest[window] = lowest, max(looked, end)
        return lowest


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

    updates: History
    """The last one has just been made."""


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
