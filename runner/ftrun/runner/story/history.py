"""All that is known of a run, as one value."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ftrun.runner.story.record_files import RecordFiles
from ftrun.runner.story.run import Run
from ftrun.runner.tracking.journal import Entry
from ftrun.runner.tracking.ledger import TrackedData

Point = tuple[int, float]


@dataclass(frozen=True)
class Series:
    """A metric over steps: at least one point."""

    name: str
    points: tuple[Point, ...]

    @property
    def values(self) -> list[float]:
        return [value for _, value in self.points]

    @property
    def first(self) -> Point:
        return self.points[0]

    @property
    def last(self) -> Point:
        return self.points[-1]

    @property
    def lowest(self) -> Point | None:
        """The lowest number; None where there is none but NaN and infinities."""
        return min(self._finite(), key=lambda point: point[1], default=None)

    @property
    def highest(self) -> Point | None:
        return max(self._finite(), key=lambda point: point[1], default=None)

    @property
    def broken(self) -> Point | None:
        """The first point that is NaN or infinite."""
        return next((point for point in self.points if not math.isfinite(point[1])), None)

    def _finite(self) -> Iterator[Point]:
        return (point for point in self.points if math.isfinite(point[1]))


@dataclass(frozen=True)
class History:
    """A run, the files of its record, and the runs below it."""

    run: Run
    uri: str
    """The store, without credentials."""

    files: RecordFiles
    data: tuple[TrackedData, ...] = ()
    children: tuple[Run, ...] = ()
    """The stages of a pipeline's run."""

    @cached_property
    def series(self) -> dict[str, Series]:
        """Every metric that was logged, by its name."""
        return read_series(self.files.entries)

    def setting(self, key: str) -> Any:
        """The value of a dotted key of the resolved recipe, None where it has none."""
        value: Any = self.files.settings
        for name in key.split("."):
            if not isinstance(value, Mapping):
                return None
            value = value.get(name)
        return value


def read_series(entries: Iterable[Entry]) -> dict[str, Series]:
    """The metrics of a journal. Where a run went back, by a guard or because it was resumed, the steps that were made
    again replace those that were given up."""
    found: dict[str, list[Point]] = {}
    for entry in entries:
        for name, value in entry.metrics.items():
            points = found.setdefault(name, [])
            while points and points[-1][0] >= entry.step:
                points.pop()
            points.append((entry.step, value))
    return {name: Series(name, tuple(points)) for name, points in found.items()}
