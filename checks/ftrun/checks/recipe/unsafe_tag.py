"""The recipe uses a YAML tag that could run code.

Symptom: ftrun refuses a value that begins with `!`.
Cause: tags such as `!!python/object/apply` make some YAML readers build objects and call functions; tags
such as `!include` belong to another tool.
Fix: remove the tag; a recipe holds texts, numbers, true, false, lists and mappings.
Prevention: read a recipe from elsewhere before running it, and use `extends:` for what is shared.
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


@check("REC004", title="the recipe holds plain values only")
def unsafe_tag(failed: RecipeFailed) -> Iterator[Finding]:
    """Tell each tag that is not one of plain YAML."""
    yield from findings_of(failed, "unsafe_tag")


@unsafe_tag.fault
def a_tag_that_runs_a_command(world: World) -> None:
    """The classic attack on unsafe loaders."""
    world.recipe_text = (
        'name: !!python/object/apply:os.system ["true"]\nmethod: sft\n'
        "model: {path: tiny}\ndata: {train: [{path: train.jsonl}]}\n"
    )


@unsafe_tag.fault
def an_include_of_another_tool(world: World) -> None:
    """`!include` is no YAML of its own."""
    world.recipe_text = (
        "name: healthy\nmethod: sft\nmodel: !include model.yaml\ndata: {train: [{path: train.jsonl}]}\n"
    )
