"""A metric drawn in one line."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ftrun.runner.plan.curve import draw_curve

Point = tuple[int, float]

FLOOR = 0.1  # the lowest value has a mark too
BROKEN, BROKEN_PLAIN = "×", "!"


def draw_points(
    points: Sequence[Point],
    *,
    unicode: bool,
    width: int,
    steps: tuple[int, int],
    values: tuple[float, float] | None = None,
) -> str:
    """A line of `width` characters that spans `steps`, from the lowest value of the points to the highest, or over
    `values`.

    A place shows the mean of its points, or the point before where it has none; it is empty before the first point
    and after the last. A place with NaN or an infinity is a cross.
    """
    finite = [value for _, value in points if math.isfinite(value)]
    low, high = values or (min(finite, default=0.0), max(finite, default=0.0))
    start, cells = _spread(points, steps, width)
    heights = [_height(cell, low, high) for cell in cells]
    drawn = draw_curve(heights, unicode=unicode, width=width)
    return " " * start + drawn.replace(" ", BROKEN if unicode else BROKEN_PLAIN)


def take_logs(points: Sequence[Point]) -> list[Point]:
    """Positive values as their logarithms; NaN and infinities stay what they are."""
    return [(step, math.log(value) if value > 0 else value) for step, value in points]


def _spread(points: Sequence[Point], steps: tuple[int, int], width: int) -> tuple[int, list[float]]:
    """The place of the first point, and the mean of each place from there to that of the last."""
    first, last = steps
    places: dict[int, list[float]] = {}
    for step, value in points:
        place = (step - first) * width // max(1, last - first + 1)
        places.setdefault(max(0, min(width - 1, place)), []).append(value)
    cells: list[float] = []
    for place in range(min(places), max(places) + 1):
        here = places.get(place)
        cells.append(_mean(here) if here else cells[-1])
    return min(places), cells


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if all(map(math.isfinite, values)) else math.nan


def _height(value: float, low: float, high: float) -> float:
    if not math.isfinite(value):
        return math.nan
    share = (value - low) / (high - low) if high > low else 0.5
    return FLOOR + (1 - FLOOR) * share
