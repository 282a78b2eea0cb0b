"""The schedule of the learning rate, drawn small."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

BLOCKS, PLAIN = " ▁▂▃▄▅▆▇█", " .:-=+*#@"
WIDTH = 48


def draw_curve(factors: Sequence[float], *, unicode: bool, width: int = WIDTH) -> str:
    """A line of as many characters as `width` or as there are factors, each as high as the mean of its part.

    A factor of 1 is the full height; only what is no number or below 0 has none.
    """
    marks = BLOCKS if unicode else PLAIN
    count = min(width, len(factors))
    if not count:
        return ""
    edges = [round(part * len(factors) / count) for part in range(count + 1)]
    means = [math.fsum(factors[start:end]) / (end - start) for start, end in pairwise(edges)]
    return "".join(_mark(mean, marks) for mean in means)


def _mark(height: float, marks: str) -> str:
    if not height > 0:
        return marks[0]
    # The lowest mark of all that is above 0, so that a small rate and none are told apart.
    return marks[max(1, min(len(marks) - 1, round(height * (len(marks) - 1))))]
