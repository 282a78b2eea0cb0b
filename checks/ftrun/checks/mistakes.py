"""Mistakes in a recipe file as findings. Each kind of mistake is documented by the check of its name."""

from __future__ import annotations

from collections.abc import Iterator

from ftrun.checks.finding import Finding
from ftrun.checks.stages import RecipeFailed


def findings_of(failed: RecipeFailed, kind: str) -> Iterator[Finding]:
    """A finding for each mistake of this kind, in the order of the file."""
    for mistake in failed.mistakes:
        if mistake.kind == kind:
            yield Finding(mistake.message, mistake.fix, mistake.where)
