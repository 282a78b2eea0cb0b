"""A value in the recipe is of the wrong type.

Symptom: with other tools a TypeError after the model is loaded, or a text where a number is meant.
Cause: a number in quotes, a single value where a list belongs, a mapping where a text belongs.
Fix: write the value as the message shows.
Prevention: with the JSON Schema (`ftrun schema`) an editor marks it while you type.
Source: LLaMA-Factory#4014 and trl#1450 (a learning rate that is text).
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


@check("REC011", title="every value is of its key's type")
def wrong_type(failed: RecipeFailed) -> Iterator[Finding]:
    """Tell each value of another type than its key takes."""
    yield from findings_of(failed, "wrong_type")


@wrong_type.fault
def a_number_in_words(world: World) -> None:
    """A text where a number belongs."""
    world.recipe["training"]["learning_rate"] = "low"


@wrong_type.fault
def a_path_instead_of_a_list(world: World) -> None:
    """A single text where a list of sources belongs."""
    world.recipe["data"]["train"] = "train.jsonl"
