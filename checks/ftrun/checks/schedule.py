"""When things happen in a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ftrun.checks.stages import AtData

TRIAL_STEPS = 10


def is_trial(at: AtData) -> bool:
    """Whether the run only tries things out: `max_steps` limits it to fewer than ten steps."""
    max_steps: int = at.recipe.training["max_steps"]
    return 0 < max_steps < TRIAL_STEPS


def count_warmup(training: Mapping[str, Any], steps: int) -> int:
    """Steps of the warmup, as `TrainingArguments.get_warmup_steps` has them: a number below 1 is a share."""
    given = training["warmup_steps"] or 0
    return int(given) if given >= 1 else math.ceil(steps * given)


def every(steps: float, run: int) -> int:
    """The interval in steps that transformers makes of a setting: a number below 1 is a share of the run."""
    return max(1, math.ceil(run * steps)) if steps < 1 else int(steps)
