"""Reading the experiments of the dry step: which were made, and how far numbers may differ."""

from __future__ import annotations

from typing import Any

from ftrun.checks.dry_step import PHASES
from ftrun.checks.engine import NotApplicable
from ftrun.checks.stages import AtStep

FINE, COARSE = 1e-4, 2e-2
"""Relative differences that rounding explains: where all is computed in float32, and where it is not."""


def made(at: AtStep, name: str) -> Any:
    """The result of an experiment, by its name. Raises NotApplicable where it was not made."""
    if at.step.failed is not None:
        raise NotApplicable(f"{PHASES[at.step.failed]} failed")
    twice = at.experiments.repeated
    if name not in ("repeated", "updated") and twice is not None and differ(at, *twice):
        raise NotApplicable("evaluation is random, which TRAIN031 tells")
    result = getattr(at.experiments, name)
    if result is None:
        raise NotApplicable(at.experiments.skipped.get(name, "not tried"))
    return result


def tolerance(at: AtStep) -> float:
    """The relative difference up to which two ways to compute a number agree."""
    arguments = at.trainer.args
    halves = any(p.is_floating_point() and p.element_size() < 4 for p in at.model.parameters())
    return COARSE if halves or arguments.bf16 or arguments.fp16 else FINE


def differ(at: AtStep, one: float, other: float) -> bool:
    """Whether two numbers differ by more than rounding explains."""
    return not abs(one - other) <= tolerance(at) * max(abs(one), abs(other))
