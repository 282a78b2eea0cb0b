"""Whether a command has to start the processes of its run, and the start."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ftrun.runner.launching.processes import run_processes
from ftrun.runner.ranks import count_ranks
from ftrun.schemas.errors import RecipeError, RunError
from ftrun.schemas.launch import Launch
from ftrun.schemas.load import load_recipe
from ftrun.schemas.pipeline import is_pipeline, load_pipeline


def start_recipe(path: Path, sets: Sequence[str], words: Sequence[str]) -> int | None:
    """Run `ftrun` with `words` in as many processes as the recipe or pipeline asks for, and return the exit code;
    None where this process is to do it itself.

    Raises RunError where the recipe asks for several machines, which only a launcher reaches.
    """
    if is_started():
        return None
    try:
        launch = (
            load_pipeline(path, sets).launch if is_pipeline(path) else load_recipe(path, sets).recipe.launch
        )
    except RecipeError:
        return None  # told in full by the command
    return start(launch, words, str(path))


def start(launch: Launch, words: Sequence[str], what: str) -> int | None:
    """`start_recipe` for a launch that was read; `what` asks for it."""
    if is_started():
        return None
    if launch.machines > 1:
        raise RunError(
            f"{what} asks for {launch.machines} machines (launch.machines), and ftrun starts processes on this one "
            f"alone; a launcher that reaches them starts it: `ftrun launch {what} --slurm` writes the script"
        )
    if launch.per_machine == 1:
        return None
    return run_processes(words, launch.per_machine)


def start_again(then: Mapping[str, Any], words: Sequence[str]) -> int | None:
    """`start_recipe` for the repetition of a run that is recorded so: in as many processes as trained it, where each
    has a GPU here or there is none; else one repeats it, and says so."""
    # A record that is older than the processes has one.
    count = int(then["segments"][0]["hardware"].get("processes", 1))
    if count == 1 or is_started():
        return None
    import torch

    gpus = torch.cuda.device_count()
    return None if 0 < gpus < count else run_processes(words, count)


def describe_launch(then: Mapping[str, Any]) -> dict[str, Any]:
    """The `launch` with which a run that is recorded so is repeated on the processes that there are now."""
    strategy = then["resolved"].get("launch", {}).get("strategy", "ddp")
    return {"processes": None, "machines": 1, "strategy": strategy if count_ranks() > 1 else "ddp"}


def require_started(launch: Launch) -> None:
    """Raise RunError where this is the only process of a run that is to have more: it would train with smaller updates
    than the recipe's, and fewer of them."""
    if (launch.processes or launch.machines) > 1 and not is_started():
        raise RunError(
            f"launch.processes is {launch.processes or launch.machines}, and this process is the only one. The command "
            "`ftrun RECIPE` starts them all; a program that calls ftrun is started by torchrun, or sets "
            "launch.processes=1"
        )


def is_started() -> bool:
    """Whether this process is one of those that a launcher, or ftrun, has started."""
    return "RANK" in os.environ
