"""How large the gradients of a run usually are."""

from __future__ import annotations

import math
from typing import NamedTuple

FIRST = 20
"""Updates before anything is called usual."""

MEMORY = 100
"""Updates over which means run."""

FAR = 3.0
"""Deviations at which a norm counts as no farther away: one spike must not make the next one usual."""

LEAST = 0.3
"""The deviation that is taken at least, so that a very even run may change: a factor of 1.35."""


class Usual(NamedTuple):
    """What the norms before an update were, as natural logarithms."""

    level: float
    """The highest running mean so far: an outlier of a run that has learnt, whose gradients were as large when it
    began, is none."""

    deviation: float


class Norms:
    """Running mean and deviation of the logarithm of gradient norms. Each costs the same, however many there were."""

    def __init__(self) -> None:
        self._count = 0
        self._mean = self._variance = 0.0
        self._level = -math.inf

    def note(self, norm: float) -> Usual | None:
        """Take a norm in. Returns what was usual before it; None where too few were seen. A norm of zero, and one that
        is no number, are passed over."""
        usual = Usual(self._level, math.sqrt(self._variance)) if self._count >= FIRST else None
        if norm <= 0 or not math.isfinite(norm):
            return usual
        self._count += 1
        share = max(1 / self._count, 1 / MEMORY)
        away = math.log(norm) - self._mean
        if usual is not None:
            far = FAR * max(usual.deviation, LEAST)
            away = min(max(away, -far), far)
        self._mean += share * away
        self._variance = (1 - share) * (self._variance + share * away * away)
        if self._count >= FIRST:
            self._level = max(self._level, self._mean)
        return usual
