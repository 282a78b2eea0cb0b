"""Aliases in the recipe expand without end.

Symptom: a file of a few lines fills the memory of tools that read it.
Cause: anchors (`&a`) and aliases (`*a`) that are nested in each other multiply (a "billion laughs" file), or
a value refers to itself.
Fix: write the values out, or use fewer aliases.
Prevention: share settings between recipes with `extends:`.
Source: a recipe may hold 10,000 values, 50 levels deep, once its aliases are expanded.
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


@check("REC005", title="the recipe's aliases expand to a reasonable size")
def too_many_aliases(failed: RecipeFailed) -> Iterator[Finding]:
    """Tell where the aliases stand that expand to too much."""
    yield from findings_of(failed, "too_many_aliases")


@too_many_aliases.fault
def nine_levels_of_nine(world: World) -> None:
    """Each anchor holds nine of the one before: 9⁹ values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 9):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]")
    world.recipe_text = "\n".join(lines) + "\n"


@too_many_aliases.fault
def a_value_in_itself(world: World) -> None:
    """An alias inside the value that its anchor names."""
    world.recipe_text = "name: healthy\nmethod: sft\ntraining: &all {lr_scheduler_kwargs: *all}\n"
