"""What a check says: a finding, and the verdict on the whole check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ftrun.schemas.mistake import Where

Severity = Literal["error", "warning", "info"]
Verdict = Literal["passed", "found", "skipped", "not_applicable"]


@dataclass(frozen=True)
class Patch:
    """A mechanical fix: the recipe's key and the value that it should have."""

    key: str
    value: Any


@dataclass(frozen=True)
class Finding:
    """One thing found.

    A check fills in what it saw; the engine adds the check's `id`, and its `severity` where the check
    left it open.
    """

    message: str
    """One or two sentences with the numbers that matter."""

    fix: str
    """What to do, in one sentence."""

    where: Where = Where()
    evidence: tuple[str, ...] = ()
    """Lines worth seeing: rows, names, values. At most a handful."""

    patch: Patch | None = None
    severity: Severity | None = None
    id: str = ""
    ignored: str | None = None
    """The recipe's reason for ignoring this finding; it is reported and stops nothing."""

    since: int | None = None
    """Of a guard: the first update that is not to be trusted, where it is not the last one."""

    table: tuple[Mapping[str, Any], ...] = ()
    """Of a guard: rows worth seeing, by column. They go into the record as a table."""
