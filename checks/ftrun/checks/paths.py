"""Paths that lead nowhere: which one was probably meant."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ftrun.schemas.spelling import nearest


def suggest_path(written: str, folder: Path) -> str:
    """What to do about a path of a recipe in `folder` that is not there, in one sentence.

    Named are, in this order: the same path seen from where the command runs, an existing path that is
    spelt alike, what the nearest existing folder holds.
    """
    if not _is_absolute(written) and Path(written).exists():
        seen = Path(os.path.relpath(written, folder)).as_posix()
        return f"Paths are relative to the recipe, and not to where the command runs: write `{seen}`."
    if near := nearest_path(written, folder):
        return f"Did you mean `{near}`?"
    parent, _ = _split(written, folder)
    held = ", ".join(_names(parent)[:5]) or "nothing"
    return f"Correct the path; `{parent}` holds {held}."


def nearest_path(written: str, folder: Path) -> str | None:
    """The existing path that differs from `written` in the spelling of one part; None where there is none.

    It is written as a recipe in `folder` would write it.
    """
    parent, missing = _split(written, folder)
    if not missing:
        return None
    near = nearest(missing[0], _names(parent))
    if near is None or not (parent / near).joinpath(*missing[1:]).exists():
        return None
    kept = Path(written).parts[: -len(missing)]
    return Path(*kept, near, *missing[1:]).as_posix()


def _is_absolute(written: str) -> bool:
    return Path(written).expanduser().is_absolute()


def _split(written: str, folder: Path) -> tuple[Path, Sequence[str]]:
    """The deepest folder on the way that is there, and the parts of the path below it."""
    path = folder / Path(written).expanduser()
    missing: list[str] = []
    while not path.is_dir() and path != path.parent:
        missing.insert(0, path.name)
        path = path.parent
    return path, missing


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError:  # a folder that may be entered and not listed
        return []
