"""Running a recipe with something that goes wrong in it, and its clean twin."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from transformers import TrainerCallback

import ftrun.runner.run
from ftrun.checks.stages import AtModel
from ftrun.checks.testing import World
from ftrun.runner.guarding.alarm import Alarm
from ftrun.runner.guarding.recovery import Recovery
from ftrun.runner.tracking.journal import read_journal
from ftrun.schemas.errors import RunError

LAST = 5
"""Steps whose losses are what a run ends with."""

Plant = Callable[[AtModel], None]
"""Damages a trainer that has just been built: the first, and each that is built after going back."""


@dataclass
class Outcome:
    """How a run ended."""

    loss: float
    """The mean over its last steps; of PPO the score. NaN where it ended before."""

    events: list[dict[str, Any]]
    error: str = ""
    alarms: list[Alarm] = field(default_factory=list)
    """For which it went back."""


def run_planted(world: World, plant: Plant | None = None) -> Outcome:
    """Run a world, without preflight, and with a fault in its trainers."""
    silent = Console(file=io.StringIO())
    method, error = world.recipe["method"], ""
    alarms: list[Alarm] = []
    with _planting(method, plant or (lambda at: None)), _noting(alarms), redirect_stdout(io.StringIO()):
        try:
            ftrun.runner.run.run_recipe(world.write(), sets=(), ignore={}, out=silent, err=silent)
        except RunError as stopped:
            error = str(stopped)
    folder = max((world.folder / "runs").glob("healthy-*"), key=lambda one: one.stat().st_mtime)
    file = folder / "events.jsonl"
    events = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    name = "train/objective/score" if method == "ppo" else "train/loss"
    known = {
        one.step: one.metrics[name] for one in read_journal(folder / "metrics.jsonl") if name in one.metrics
    }
    ended = [known[step] for step in sorted(known)][-LAST:]
    return Outcome(fmean(ended) if ended and not error else float("nan"), events, error, alarms)


def run_twin(world: World, outcome: Outcome) -> Outcome:
    """The same recipe without the fault, that goes back at the same steps and with the same remedies."""
    built = iter(range(len(outcome.alarms) + 1))

    def plant(at: AtModel) -> None:
        number = next(built)
        if number < len(outcome.alarms):
            at.trainer.add_callback(_GoBack(outcome.alarms[number]))

    return run_planted(world, plant)


class _GoBack(TrainerCallback):  # type: ignore[misc, unused-ignore]  # transformers is untyped here
    def __init__(self, alarm: Alarm) -> None:
        since = alarm.step if alarm.finding.since is None else alarm.finding.since
        self.finding = replace(alarm.finding, message="as its twin", since=since)
        self.step = alarm.step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise Alarm(self.finding, "rollback", self.step, ())


@contextmanager
def _planting(method: str, plant: Plant) -> Iterator[None]:
    module: Any = import_module(f"ftrun.runner.methods.{method}")
    build = module.build_model

    def build_and_plant(*args: Any, **kwargs: Any) -> AtModel:
        at: AtModel = build(*args, **kwargs)
        plant(at)
        return at

    run: Any = ftrun.runner.run
    load, run.load_checks = run.load_checks, lambda: ()
    module.build_model = build_and_plant
    try:
        yield
    finally:
        module.build_model = build
        run.load_checks = load


@contextmanager
def _noting(alarms: list[Alarm]) -> Iterator[None]:
    go_back = Recovery._go_back

    def note(self: Recovery, alarm: Alarm) -> Path | None:
        checkpoint = go_back(self, alarm)
        alarms.append(alarm)
        return checkpoint

    Recovery._go_back = note  # type: ignore[method-assign]
    try:
        yield
    finally:
        Recovery._go_back = go_back  # type: ignore[method-assign]
