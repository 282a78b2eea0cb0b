"""Rows of a source cannot be read.

Symptom: the model has seen fewer rows than the file holds, and nobody was told.
Cause: a line that is not JSON, a row without the format's columns, a column that is empty or of another type.
Fix: correct these rows, or take them out of the file.
Prevention: read every export back once before training on it.
Source: any such row is an error, since rows that are lost in silence are the fault.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("DATA005", title="every row of every source is read")
def unreadable_rows(at: AtData) -> Iterator[Finding]:
    for source in at.sources:
        if not source.bad:
            continue
        total = len(source.bad) + len(source.examples) // source.sides
        yield Finding(
            message=f"{len(source.bad)} of {total} rows of {source.label} cannot be read as {source.format} "
            f"and would not be trained on. The first is row {source.bad[0].row}: {source.bad[0].reason}.",
            fix=f"Correct these rows of {source.label}, or remove them.",
            where=Where(file=source.label, row=source.bad[0].row, key=source.key),
            evidence=tuple(f"row {one.row}: {one.reason}" for one in source.bad[:3]),
        )


@unreadable_rows.fault
def answers_are_numbers(world: World) -> None:
    world.rows[3]["completion"] = 42
    world.rows[9]["completion"] = None
