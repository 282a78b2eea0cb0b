"""`--resume`: the run and the checkpoint that go on, and the recipe as it goes on with them."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from ftrun.runner import checkpoints
from ftrun.runner.batch import describe_batch, keep_batch
from ftrun.runner.launching.sharding import require_strategy
from ftrun.runner.ranks import count_ranks
from ftrun.runner.record.folder import DIGEST_FILE
from ftrun.runner.reuse import STATE_FILE
from ftrun.schemas.errors import RunError
from ftrun.schemas.load import RecipeFile
from ftrun.schemas.resolve import digest, resolve


def find_newest_run(file: RecipeFile) -> Path:
    """The folder of the newest run of a recipe. Raises RunError where there is none."""
    output = Path(file.recipe.output).absolute()
    runs = [one for one in output.glob(f"{file.recipe.name}-*") if one.name.rpartition("-")[2].isdigit()]
    runs = [one for one in runs if one.name.rpartition("-")[0] == file.recipe.name]
    runs = [
        one for one in runs if not (one / STATE_FILE).exists()
    ]  # a pipeline may be called as the recipe is
    if not runs:
        raise RunError(f"there is no run of {file.recipe.name} in {output} to resume")
    return max(runs, key=_number)


def find_checkpoint(folder: Path, file: RecipeFile, err: Console) -> Path:
    """The last good checkpoint in a run folder of the recipe; those that are passed over are told.

    Raises RunError where there is none, or where the recipe has changed since: a changed rate or
    batch would be dropped in silence, since the checkpoint's own state wins.
    """
    kept, own = folder / DIGEST_FILE, digest(resolve(file.recipe))
    if not kept.is_file() or kept.read_text(encoding="utf-8").strip() != own:
        raise RunError(
            f"the recipe is not the one that {folder.name} ran with, kept in {folder / 'recipe.resolved.yaml'}; "
            "a run is resumed with the same settings, or started anew without --resume"
        )
    return checkpoints.find_good_checkpoint(folder, own, lambda told: err.print(told, style="yellow"))


def go_on_with(file: RecipeFile, checkpoint: Path, err: Console) -> RecipeFile:
    """The recipe as a run goes on with it on the processes that there are now: each update keeps its rows.

    Raises RunError where these processes cannot share them, or divide the model otherwise.
    """
    require_strategy(checkpoint, file.recipe.launch.strategy)
    manifest = checkpoints.read_manifest(checkpoint)
    if manifest is None or manifest.origin.batch is None:
        return file
    kept = keep_batch(file, manifest.origin.batch)
    if kept is not file:
        before = manifest.origin.processes
        err.print(
            f"{checkpoint.name} is of {before} process{'es' * (before > 1)}; an update keeps its rows: "
            f"{describe_batch(resolve(kept.recipe).training, count_ranks())}",
            style="yellow",
        )
    return kept


def _number(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])
