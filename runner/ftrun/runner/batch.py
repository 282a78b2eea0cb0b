"""The effective batch: the rows of one update, over all processes of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ftrun.runner.ranks import count_ranks
from ftrun.schemas.errors import RunError
from ftrun.schemas.load import RecipeFile
from ftrun.schemas.resolve import resolve
from ftrun.schemas.sections import BaseRecipe


def count_processes(recipe: BaseRecipe) -> int:
    """How many processes train a recipe: as many as there are, else as many as it says."""
    here = count_ranks()
    return here if here > 1 else recipe.launch.processes or 1


def measure_batch(training: Mapping[str, Any], processes: int) -> int:
    """Rows of an update."""
    return int(training["per_device_train_batch_size"] * training["gradient_accumulation_steps"] * processes)


def describe_batch(training: Mapping[str, Any], processes: int) -> str:
    """Rows of an update with their arithmetic: `4 rows × 2 accumulated × 2 processes = 16 rows an update`."""
    rows, accumulation = training["per_device_train_batch_size"], training["gradient_accumulation_steps"]
    parts = [f"{rows} rows"]
    parts += [f"{accumulation} accumulated"] if accumulation > 1 else []
    parts += [f"{processes} processes"] if processes > 1 else []
    return f"{' × '.join(parts)} = {rows * accumulation * processes} rows an update"


def keep_batch(file: RecipeFile, batch: int) -> RecipeFile:
    """A recipe whose updates are of `batch` rows on the processes that there are now, by another accumulation, and
    where that alone does not do it by a smaller micro-batch.

    Raises RunError where the rows cannot be divided among the processes.
    """
    training, processes = resolve(file.recipe).training, count_ranks()
    if measure_batch(training, processes) == batch:
        return file
    rows, rest = divmod(batch, processes)
    if rest:
        raise RunError(
            f"an update of this run has {batch} rows, which {processes} processes cannot share evenly; take a number "
            f"of processes that divides {batch}"
        )
    micro = next(one for one in range(training["per_device_train_batch_size"], 0, -1) if rows % one == 0)
    changes = {"per_device_train_batch_size": micro, "gradient_accumulation_steps": rows // micro}
    recipe = file.recipe
    return replace(file, recipe=recipe.model_copy(update={"training": recipe.training | changes}))
