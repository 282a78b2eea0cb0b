"""A mistake in a recipe file, and the place it is at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Where:
    """A place a person can go to. Lines, columns and rows count from 1."""

    file: str | None = None
    line: int | None = None
    column: int | None = None
    key: str | None = None
    row: int | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        if self.row is not None:
            place = f"{place} row {self.row}".strip()
        if self.key is not None:
            place = f"{place} ({self.key})".strip()
        return place


@dataclass(frozen=True)
class Mistake:
    """One mistake. `kind` is the name of the check that documents it (`ftrun.checks.recipe.<kind>`)."""

    kind: str
    message: str
    where: Where
    fix: str
