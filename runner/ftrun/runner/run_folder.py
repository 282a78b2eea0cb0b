"""The folder of a run: where it is made, and what the run is part of."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftrun.schemas.errors import RunError
from ftrun.schemas.load import RecipeFile


@dataclass(frozen=True)
class RunPlace:
    """Where a run writes, and what it is part of."""

    folder: Path | None = None
    """The run folder; absent, a new one in the recipe's output."""

    checkpoint: Path | None = None
    """The checkpoint in that folder that the run goes on from."""

    name: str | None = None
    """Name of the MLflow run; absent, that of the folder."""

    parent: Path | None = None
    """Folder of the run that this one is a child of."""

    tags: Mapping[str, str] = field(default_factory=dict)
    """Further tags of the MLflow run."""

    last_step: int | None = None
    """The step after which the run ends, without changing its schedule: no model is kept of it then."""

    written: RecipeFile | None = None
    """The recipe as it is recorded, where the one that trains divides the rows of an update otherwise."""

    choices: Sequence[Mapping[str, Any]] | None = None
    """What ftrun chose for the run that is repeated or gone on with; absent, it chooses."""


def require_writable(output: Path) -> None:
    """Raises RunError where run folders cannot be made in `output`, before the minutes that checks may take."""
    place = output.absolute()
    while not place.exists():
        place = place.parent
    if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        why = (
            "may not be written to, or is on a disk that is mounted for reading"
            if place.is_dir()
            else "is a file"
        )
        raise RunError(f"runs cannot be kept in {output}: {place} {why}. Name another folder with `output`")


def make_run_folder(output: Path, name: str) -> Path:
    """A new folder `<output>/<name>-<n>`, with the first n that is free."""
    output.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = output.absolute() / f"{name}-{number}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder
