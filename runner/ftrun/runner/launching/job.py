"""`ftrun launch`: a recipe's processes as a job for a scheduler, written and never submitted."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ftrun.runner.tracking.secrets import redact_text
from ftrun.schemas.errors import RunError
from ftrun.schemas.load import load_recipe
from ftrun.schemas.pipeline import is_pipeline, load_pipeline


@dataclass(frozen=True)
class Job:
    """What a scheduler has to know."""

    name: str
    words: tuple[str, ...]
    """What follows `ftrun`."""

    machines: int
    per_machine: int
    """Processes on each."""

    gpus: int
    """GPUs on each; 0 on the CPU."""

    output: str
    """The folder of run folders, relative to `folder` unless absolute."""

    folder: Path
    """Where the command runs."""

    tracking: str | None
    """The tracking server that the environment names; None where the recipe names one, or none is named."""

    hidden: tuple[str, ...]
    """Variables of the environment that hold secrets and that the run reads."""


HIDDEN = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "HF_TOKEN",
)


def plan_job(path: Path, sets: Sequence[str]) -> Job:
    """The job of a recipe or pipeline.

    Raises RecipeError where it cannot be used, and RunError where a `--set` holds a secret, which no script should.
    """
    if any(redact_text(one) != one for one in sets):
        raise RunError("a --set holds a secret, which would stand in the script; put it into the environment")
    here = Path.cwd()
    path = path.relative_to(here) if path.is_absolute() and path.is_relative_to(here) else path
    words = ("run", str(path), *(f"--set={one}" for one in sets))
    if is_pipeline(path):
        file = load_pipeline(path, sets)
        name, output, uri, launch = (
            file.pipeline.name,
            file.pipeline.output,
            file.pipeline.tracking.uri,
            file.launch,
        )
        recipes = [stage.file.recipe for stage in file.stages]
    else:
        recipe = load_recipe(path, sets).recipe
        name, output, uri, launch = recipe.name, recipe.output, recipe.tracking.uri, recipe.launch
        recipes = [recipe]
    on_cpu = all(recipe.training.get("use_cpu") for recipe in recipes)
    named = None if uri else os.environ.get("MLFLOW_TRACKING_URI") or None
    is_secret = named is not None and redact_text(named) != named
    return Job(
        name=name,
        words=words,
        machines=launch.machines,
        per_machine=launch.per_machine,
        gpus=0 if on_cpu else launch.per_machine,
        output=output,
        folder=here,
        tracking=None if is_secret else named,
        hidden=tuple(one for one in HIDDEN if os.environ.get(one) and (one != HIDDEN[0] or is_secret)),
    )


def write_job(path: Path, sets: Sequence[str], form: Callable[[Job], str], output: Path | None) -> int:
    """Print the job of a recipe in a form, or write it to a file, and return the exit code."""
    text = form(plan_job(path, sets))
    if output is None:
        sys.stdout.write(text)
    else:
        output.write_text(text, encoding="utf-8")
        print(f"{output} is written; look at it before you submit it", file=sys.stderr)
    return 0
