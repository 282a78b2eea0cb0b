"""A key is written twice.

Symptom: with other tools the last one wins in silence, and the value that you read is not the one that runs.
Cause: a key was added without looking for the one that is there, or two recipes were pasted together.
Fix: keep one of the two lines.
Prevention: share values through `extends:` or YAML anchors instead of copies.
Source: YAML libraries such as PyYAML keep the last of two equal keys and say nothing.
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


@check("REC003", title="every key is written once")
def duplicate_key(failed: RecipeFailed) -> Iterator[Finding]:
    """Tell both places of a key."""
    yield from findings_of(failed, "duplicate_key")


@duplicate_key.fault
def the_learning_rate_twice(world: World) -> None:
    """Two values for one setting."""
    world.recipe_text = (
        "name: healthy\nmethod: sft\nmodel: {path: tiny}\ndata: {train: [{path: train.jsonl}]}\n"
        "training:\n  learning_rate: 2.0e-5\n  seed: 7\n  learning_rate: 2.0e-4\n"
    )
