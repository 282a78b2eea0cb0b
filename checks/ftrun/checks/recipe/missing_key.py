"""The recipe lacks a key that it needs.

Symptom: ftrun names a key and what to add.
Cause: `method`, `name`, `model.path` or `data.train` is not written, here or in a base that is extended.
Fix: add the line that the message proposes.
Prevention: start from `ftrun init METHOD`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.mistakes import findings_of
from ftrun.checks.stages import RecipeFailed

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("REC010", title="every key that is needed is there")
def missing_key(failed: RecipeFailed) -> Iterator[Finding]:
    """Tell each missing key."""
    yield from findings_of(failed, "missing_key")


@missing_key.fault
def no_data(world: World) -> None:
    """Nothing to train on."""
    del world.recipe["data"]


@missing_key.fault
def no_method(world: World) -> None:
    """Nothing says how to train."""
    del world.recipe["method"]
