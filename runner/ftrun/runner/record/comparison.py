"""A run beside the one that it repeats: every number of every step, then the weights."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ftrun.runner.record.ladder import Ladder
from ftrun.runner.tracking.journal import METRICS_FILE, read_journal
from ftrun.schemas.errors import RunError

Verdict = Literal["exact", "close", "drifted"]
Values = Mapping[tuple[int, str], float]

CLOCKS = re.compile(r".*(?:runtime|_per_second|seconds|memory|_mb|_gb)$")
"""Metrics that measure time or memory: no two runs agree on them."""

SINCE_START = ("train/num_tokens", "train/train_loss", "train/total_flos")
"""Metrics that count from where the process began: a run that was resumed has only a part in them."""

AT_THE_STEP = ("train/grad_norm", "train/learning_rate", "train/epoch")
"""Metrics of one step; all others of training are means since the last log."""

TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 5e-2}
"""What counts as close, by the type that is computed in, as a share of the largest value of the metric.

Measured over 400 steps: float32 with other threads 6.3e-6, with AVX2 instead of AVX-512 3.7e-6; bfloat16 with AVX2
3.4e-2, where another seed makes 1.2e-1."""


@dataclass(frozen=True)
class Gap:
    """A number that is otherwise. None: it is not there."""

    step: int
    metric: str
    then: float | None
    now: float | None
    share: float
    """The difference as a share of the metric's largest value; infinite where one is missing or no number."""


@dataclass(frozen=True)
class Comparison:
    """What came of it."""

    verdict: Verdict
    values: int
    """Numbers that were compared."""

    last_step: int
    first: Gap | None
    largest: Gap | None
    first_weights: int | None
    """The first checkpoint whose weights are others."""

    weights: Literal["same", "different", "not compared"]
    tolerance: float
    left_out: tuple[str, ...]
    """Metrics that were not compared."""


def compare_runs(
    then: Path,
    now: Path,
    ladders: tuple[Ladder, Ladder],
    lock: Mapping[str, Any],
    *,
    upto: int | None,
    ended: bool,
) -> Comparison:
    """Compare two journals, up to step `upto`, and two ladders.

    `lock` is that of the run that is repeated, with `resolved`. Where that run did not come to its end (`ended`), what
    the repetition has beyond it is no difference. Raises RunError where `upto` leaves nothing to compare.
    """
    before, after = read_values(then), read_values(now)
    last = min(max((step for step, _ in before), default=0), upto or 2**62)
    left_out = {key for key in (*before, *after) if key[0] <= last and is_left_out(*key, lock)}
    wanted = {key for key in before if key[0] <= last}
    if ended and upto is None:
        wanted |= set(after)
    scales: dict[str, float] = {}
    for (_, name), value in before.items():
        scales[name] = max(scales.get(name, 0.0), abs(value) if math.isfinite(value) else 0.0)
    compared = sorted(wanted - left_out)
    if not compared and upto is not None:
        first_step = min((step for step, _ in {*before} - left_out), default=0)
        raise RunError(
            f"there is nothing to compare: the run recorded no number up to step {last}, and its first at step "
            f"{first_step}; repeat as many steps with --steps"
        )
    gaps = [gap for key in compared if (gap := _measure(key, before, after, scales)) is not None]
    kind = lock["weights"]["computed_in"]
    tolerance = TOLERANCES.get(lock["weights"]["trained_in"] if kind == "as loaded" else kind, 1e-4)
    steps = _differing_steps(*ladders, last)
    weights = (
        _compare_weights(*ladders, steps) if upto is None else ("different" if steps else "not compared")
    )
    largest = max(gaps, key=lambda one: one.share, default=None)
    if not gaps and weights != "different":
        verdict: Verdict = "exact"
    else:
        verdict = "close" if largest is None or largest.share <= tolerance else "drifted"
    names = tuple(sorted({name for _, name in left_out}))
    first = gaps[0] if gaps else None
    return Comparison(
        verdict, len(compared), last, first, largest, steps[0] if steps else None, weights, tolerance, names
    )


def read_values(folder: Path) -> dict[tuple[int, str], float]:
    """The value of each metric at each step, the last one where a step was made twice."""
    return {
        (entry.step, name): value
        for entry in read_journal(folder / METRICS_FILE)
        for name, value in entry.metrics.items()
    }


def is_left_out(step: int, metric: str, lock: Mapping[str, Any]) -> bool:
    """Whether two runs that are the same may differ in this number."""
    if CLOCKS.fullmatch(metric):
        return True
    resumed = [_step_of(segment["checkpoint"]) for segment in lock["segments"][1:]]
    if not resumed:
        return False
    if metric in SINCE_START:
        return True
    every = lock["resolved"]["training"]["logging_steps"]
    starts = [one for one in resumed if isinstance(every, int) and one % every]
    partial = any(one < step < one + every for one in starts if isinstance(every, int))
    return partial and metric.startswith("train/") and metric not in AT_THE_STEP


def _step_of(checkpoint: str | None) -> int:
    return 0 if checkpoint is None else int(checkpoint.rpartition("-")[2])


def _measure(key: tuple[int, str], before: Values, after: Values, scales: Mapping[str, float]) -> Gap | None:
    then, now = before.get(key), after.get(key)
    if then == now or (then is not None and now is not None and math.isnan(then) and math.isnan(now)):
        return None
    share = math.inf
    if then is not None and now is not None and math.isfinite(then) and math.isfinite(now):
        scale = scales[key[1]]
        share = abs(then - now) / scale if scale else math.inf
    return Gap(*key, then, now, share)


def _differing_steps(then: Ladder, now: Ladder, last: int) -> list[int]:
    """Checkpoints up to step `last` whose weights are others, the first step's start as 0."""
    steps = sorted(int(step) for step in then.steps.keys() & now.steps.keys())
    start = [0] if then.init != now.init else []
    return start + [step for step in steps if step <= last and then.steps[str(step)] != now.steps[str(step)]]


def _compare_weights(
    then: Ladder, now: Ladder, steps: list[int]
) -> Literal["same", "different", "not compared"]:
    if not then.weights or not now.weights:
        return "different" if steps else "not compared"
    return "same" if then.weights == now.weights and not steps else "different"
