"""The recipes that come with ftrun."""

from __future__ import annotations

from pathlib import Path

from ftrun.schemas.errors import FtrunError
from ftrun.schemas.spelling import nearest


def shipped_folder() -> Path:
    """Where they lie: in the checkout that this file is part of, else beside the installed package. An editable
    install has both, and its copies age."""
    checkout = Path(__file__).parents[4]
    if (checkout / "pyproject.toml").is_file() and (checkout / "recipes").is_dir():
        return checkout / "recipes"
    return Path(__file__).parents[2] / "recipes"


def list_shipped() -> dict[str, Path]:
    """The recipes and pipelines by name."""
    return {path.stem: path for path in sorted(shipped_folder().glob("*.yaml"))}


def find_shipped(name: str, *, or_team: bool) -> Path | None:
    """The shipped recipe of this name. Where there is none: None if it may be one of the team, else FtrunError."""
    shipped = list_shipped()
    if name in shipped or or_team:
        return shipped.get(name)
    near = nearest(name, shipped)
    hint = f"did you mean {near}?" if near else f"there are {', '.join(shipped)}"
    raise FtrunError(f"no recipe {name} ships with ftrun, and no catalogue of a team is set; {hint}")
