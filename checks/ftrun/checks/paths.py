"""Paths that lead nowhere: which one was probably meant."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ftrun.schemas.spelling import nearest


def located(written: str, folder: Path) -> Path:
    """The place that a path of a recipe in `folder` means."""
    try:
        return folder / Path(written).expanduser()
    except RuntimeError:  # `~name` of a user whom this machine does not know
        return folder / written


def kind_of(path: Path) -> Literal["folder", "file"] | None:
    """What is there; None where nothing is, or where the file system refuses the name."""
    try:
        return "folder" if path.is_dir() else "file" if path.is_file() else None
    except OSError:  # a name longer than names may be
        return None


def suggest_path(written: str, folder: Path) -> str:
    """What to do about a path of a recipe in `folder` that is not there, in one sentence.

    Named are, in this order: the same path seen from where the command runs, an existing path that is
    spelt alike, what the nearest existing folder holds.
    """
    if not Path(written).is_absolute() and kind_of(Path(written)):
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
    if near is None or kind_of((parent / near).joinpath(*missing[1:])) is None:
        return None
    kept = Path(written).parts[: -len(missing)]
    return Path(*kept, near, *missing[1:]).as_posix()


def _split(written: str, folder: Path) -> tuple[Path, Sequence[str]]:
    """The deepest folder on the way that is there, and the parts of the path below it."""
    path = located(written, folder)
    missing: list[str] = []
    while kind_of(path) != "folder" and path != path.parent:
        missing.insert(0, path.name)
        path = path.parent
    return path, missing


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError:  # a folder that may be entered and not listed
        return []
