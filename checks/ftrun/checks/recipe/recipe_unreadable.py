"""The recipe file cannot be read.

Symptom: ftrun stops before it looks at any key.
Cause: there is no such file, it is a folder, empty, larger than 1 MB, not UTF-8 text, nested more than
50 levels deep, or it holds a list or a single value where keys belong.
Fix: name a recipe that exists, and save it as UTF-8 text with `key: value` lines.
Prevention: start from `ftrun init METHOD` or from one of the recipes in `recipes/`.
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


@check("REC001", title="the recipe is a file of keys that can be read")
def recipe_unreadable(failed: RecipeFailed) -> Iterator[Finding]:
    """Tell what keeps the file from being read."""
    yield from findings_of(failed, "recipe_unreadable")


@recipe_unreadable.fault
def an_empty_file(world: World) -> None:
    """Nothing but a comment."""
    world.recipe_text = "# to be written\n"


@recipe_unreadable.fault
def a_list_instead_of_keys(world: World) -> None:
    """Each key as an entry of a list."""
    world.recipe_text = "- name: healthy\n- method: sft\n"
