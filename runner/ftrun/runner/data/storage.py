"""Where tokenised rows and large temporary files are kept. Needs no training package."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ftrun.schemas.cache import cache_folder

DRAFT = "draft-"
"""How folders are called that are not whole yet."""


@dataclass(frozen=True)
class Cached:
    """What the cache holds."""

    folder: Path
    entries: int
    bytes: int


def rows_folder() -> Path | None:
    """Where tokenised rows are kept: `rows` under `$FTRUN_CACHE`, else in ftrun's cache folder; None where that is
    `off`."""
    chosen = os.environ.get("FTRUN_CACHE", "")
    if chosen == "off":
        return None
    return (Path(chosen).expanduser().absolute() if chosen else cache_folder()) / "rows"


def scratch_folder() -> Path:
    """Where large temporary files go: the cache folder, which is on a disk, while the folder of the system for them is
    often in memory; that one where the cache is off or cannot be written."""
    folder = rows_folder()
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            folder = None
    if folder is None or not os.access(folder, os.W_OK):
        return Path(tempfile.gettempdir())
    return folder


def describe_cache() -> Cached | None:
    """How many data sets the cache holds, and their bytes; None where it is off."""
    folder = rows_folder()
    if folder is None:
        return None
    entries = list(_list_entries(folder))
    sizes = [file.stat().st_size for entry in entries for file in entry.iterdir()]
    return Cached(folder, len(entries), sum(sizes))


def _list_entries(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (one for one in folder.iterdir() if one.is_dir() and not one.name.startswith(DRAFT))
