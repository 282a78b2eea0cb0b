"""What guards are given: checks that run while a recipe trains, of the numbers that training really made.

A guard is a check whose stage is one of these. What happens when it finds something is its `action` in the recipe's
`guards:`, under the guard's own name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from ftrun.checks.fed import Fed, Spreads
from ftrun.checks.norms import Norms, Usual
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

    left_out: bool = False
    """The optimizer made no step: float16's scale was too large for the gradients, and has been halved."""


class History:
    """The updates since the start or the last rollback. What is asked of it costs the same after ten steps and after a
    million: the last KEPT updates are there, and of those before what is remembered of them."""

    KEPT, FIRST = 10_000, 10

    def __init__(self, updates: Iterable[Update] = ()) -> None:
        self._kept: list[Update] = []
        self._usual: list[Usual | None] = []
        self._norms = Norms()
        self._gone = 0
        self._lowest: dict[int, tuple[float, int]] = {}
        self._first: list[float] = []
        for update in updates:
            self.append(update)

    def append(self, update: Update) -> None:
        """Add the update that was made last."""
        self._kept.append(update)
        if len(self._first) < self.FIRST:
            self._first.append(update.loss)
        self._usual.append(self._norms.note(update.gradient_norm))
        if len(self._kept) == 2 * self.KEPT:
            del self._kept[: self.KEPT]
            del self._usual[: self.KEPT]
            self._gone += self.KEPT

    def __len__(self) -> int:
        return self._gone + len(self._kept)

    def last(self, count: int) -> list[Update]:
        """The last `count` updates, or as many as there are; of more than KEPT at least those."""
        return self._kept[max(0, len(self._kept) - count) :]

    @property
    def start(self) -> float:
        """The median loss of the first updates."""
        return median(self._first)

    def usual(self, count: int) -> list[Usual | None]:
        """What the norms of gradients were before each of the last `count` updates."""
        return self._usual[max(0, len(self._usual) - count) :]

    def last_below(self, loss: float) -> int | None:
        """The last step of those kept whose loss was at most this."""
        return next((update.step for update in reversed(self._kept) if update.loss <= loss), None)

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


@dataclass(frozen=True, eq=False, repr=False)
class AtBatches(Training):
    """When the batches of an update have come from the data loader."""

    update: Fed
    """What these batches hold."""

    epoch: Fed
    """What was fed since the epoch began, or since the run was resumed in it; this update included."""

    data: Spreads
    """What the rows of the data stage hold."""

    name_untaught: Callable[[], tuple[str, ...]]
    """Names the rows of this update that train nothing."""


@dataclass(frozen=True)
class Recall:
    """What the model says of a question whose answer it knew before training."""

    question: str
    answer: str
    before: float
    """Mean log-probability of the answer's tokens before training, in nats."""

    now: float


@dataclass(frozen=True, eq=False, repr=False)
class AtProbe(Training):
    """When the model has been asked what it knew before training."""

    recalls: Sequence[Recall]


@dataclass(frozen=True, eq=False, repr=False)
class AtSilence(Training):
    """When nothing has been heard of training for a while."""

    seconds: float
    """Since the last sign of life."""

    longest: float
    """Seconds between two signs of life at most, before this silence."""

    doing: str
    """What is under way: `a step`, `the first step`, `an evaluation`, `a checkpoint`."""

    frames: tuple[str, ...] = ()
    """Where the main thread is, the innermost last."""

    others: tuple[str, ...] = ()
    """Where other processes are, the main thread of each."""
