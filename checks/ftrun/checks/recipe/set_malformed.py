"""An override on the command line cannot be read.

Symptom: ftrun stops at a `--set`.
Cause: there is no `=`, the part before it is no path of keys, the value is no YAML, or the path leads into
a value that has no keys.
Fix: write `--set training.learning_rate=1e-5`; entries of lists go by number, `--set data.train.0.path=x`.
Prevention: put an override with spaces, brackets or colons in quotes, so that the shell leaves it whole.
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


@check("REC007", title="every --set names a key and a value")
def set_malformed(failed: RecipeFailed) -> Iterator[Finding]:
    """Tell each `--set` that cannot be read."""
    yield from findings_of(failed, "set_malformed")


@set_malformed.fault
def no_equals_sign(world: World) -> None:
    """A space where `=` belongs: the shell makes two words of it."""
    world.sets.append("training.learning_rate")


@set_malformed.fault
def a_path_through_a_value(world: World) -> None:
    """Keys below a text."""
    world.sets.append("name.first=x")
