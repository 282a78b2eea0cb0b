"""What is fed of each source, and what the loss of each is, over stretches of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftrun.checks.training import Training

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LONGEST = 14
"""Stretches of 1, 2, 4, … updates are looked at, the longest of which has 2 to this power."""

STRETCH = 100
"""Updates over which the losses of sources are told apart."""


@dataclass(frozen=True, eq=False)
class Packs:
    """Packs of rows. How far the rows of a source in a pack are from its share of them: arrays of shape (sources,)."""

    variance: NDArray[np.float64]
    most: NDArray[np.float64]
    rows: float
    """Of a pack, in the mean."""


@dataclass(frozen=True, eq=False)
class Makeup:
    """What the data stage has of each source: arrays of shape (sources,)."""

    labels: tuple[str, ...]
    """The sources, as the recipe writes them."""

    rows: NDArray[np.int64]
    together: int = 1
    """Rows of one source that are drawn together: 2 for pairs."""

    slack: int = 0
    """Rows whose order is not by chance: a sampler that sorts by length, sorts so many."""

    packs: Packs | None = None
    """Where rows are drawn in packs."""

    @property
    def shares(self) -> NDArray[np.float64]:
        """The share of each source in the rows."""
        shares: NDArray[np.float64] = self.rows / self.rows.sum()
        return shares


@dataclass(frozen=True)
class Drift:
    """A source of which too much or too little was fed."""

    label: str
    updates: int
    """The stretch."""

    rows: int
    of: int
    share: float
    """Of the rows of the data stage."""

    chance: float
    """An upper bound of how likely so great a deviation is where rows are drawn by chance."""


@dataclass(frozen=True, eq=False)
class Losses:
    """The losses of all sources in a stretch of updates: arrays of shape (sources,)."""

    step: int
    """The last of the stretch."""

    means: NDArray[np.float64]
    errors: NDArray[np.float64]
    """Standard errors; infinite where the updates do not tell sources apart."""


class Mixture:
    """What was fed of each source since the start or the last rollback. Each update costs the same."""

    def __init__(self, makeup: Makeup) -> None:
        import numpy as np

        self.makeup = makeup
        self._fed: list[NDArray[np.int64]] = [np.zeros(len(makeup.labels), np.int64)]
        self._told: list[tuple[Sequence[float], float]] = []
        self.losses: list[Losses] = []

    def append(self, step: int, rows: Sequence[int], weights: Sequence[float], loss: float | None) -> bool:
        """Add an update: of each source the rows that were fed, and the weight that it has in the loss. Returns whether
        losses have been told apart anew."""
        import numpy as np

        self._fed.append(self._fed[-1] + np.asarray(rows))
        if len(self._fed) > 2 * 2**LONGEST:
            del self._fed[: 2**LONGEST]
        if loss is not None and math.isfinite(loss) and sum(weights) > 0:
            self._told.append((weights, loss))
        if len(self._told) < STRETCH:
            return False
        self.losses.append(tell_apart(step, self._told))
        self._told.clear()
        return True

    def find_drift(self, chance: float) -> Drift | None:
        """The source that deviates most from its share, over the last 1, 2, 4, … updates, where chance does it less
        often than once in 1 / `chance` such looks.

        Bounded is it as by Hoeffding 1963, which holds for what is drawn without being put back too (§6): theorem 1
        for rows, and for packs Bernstein's inequality.
        """
        import numpy as np

        ends = 2 ** np.arange(min(LONGEST, (len(self._fed) - 1).bit_length()))
        stretches = self._fed[-1] - np.stack([self._fed[-1 - end] for end in ends])
        made, total = self.makeup, stretches.sum(1, keepdims=True)
        expected = total * made.shares
        away = np.maximum(np.abs(stretches - expected) - made.slack, 0)
        if made.packs is None:
            shares = (expected + away * np.sign(stretches - expected)) / np.maximum(total, 1)
            nats = total / made.together * _diverge(shares, made.shares)
        else:
            variance = total / made.packs.rows * made.packs.variance
            nats = away**2 / (2 * (variance + made.packs.most * away / 3) + 1e-12)
        stretch, source = np.unravel_index(nats.argmax(), nats.shape)
        if nats[stretch, source] <= math.log(2 * nats.size / chance):
            return None
        return Drift(
            made.labels[source],
            int(ends[stretch]),
            int(stretches[stretch, source]),
            int(total[stretch, 0]),
            float(made.shares[source]),
            float(2 * np.exp(-nats[stretch, source])),
        )


def _diverge(found: NDArray[np.float64], expected: NDArray[np.float64]) -> NDArray[np.float64]:
    """KL(found ‖ expected) of shares, each by itself, in nats."""
    import numpy as np

    def part(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
        return one * np.log(np.maximum(one, 1e-300) / np.maximum(other, 1e-300))

    found = found.clip(0, 1)
    return part(found, expected) + part(1 - found, 1 - expected)


def tell_apart(step: int, updates: Sequence[tuple[Sequence[float], float]]) -> Losses:
    """The losses of sources, by least squares: the loss of an update is the mean of theirs, each with the weight that
    its tokens, or pairs, had in it."""
    import numpy as np

    weights = np.array([one for one, _ in updates], float)
    weights /= weights.sum(1, keepdims=True)
    losses = np.array([loss for _, loss in updates])
    normal = weights.T @ weights
    if np.linalg.cond(normal) > 1e8:
        nothing = np.full(weights.shape[1], np.inf)
        return Losses(step, np.zeros_like(nothing), nothing)
    inverse = np.linalg.inv(normal)
    means = inverse @ weights.T @ losses
    rest = losses - weights @ means
    variance = rest @ rest / max(1, len(losses) - len(means))
    return Losses(step, means, np.sqrt(variance * inverse.diagonal()))


@dataclass(frozen=True, eq=False, repr=False)
class AtMixture(Training):
    """Behind an update of a run of several sources."""

    mixture: Mixture
    steps: int
    """Of the whole run."""


@dataclass(frozen=True, eq=False, repr=False)
class AtSourceLosses(Training):
    """When the losses of several sources have been told apart anew."""

    labels: tuple[str, ...]
    losses: Sequence[Losses]
