"""The recipe file is not YAML.

Symptom: ftrun names a line and column at which reading ends.
Cause: a tab that indents, a bracket or quote that is not closed, a text with `: ` and no quotes, a key
without its colon.
Fix: correct the line that is named; put texts that hold `: `, `#`, `{` or `*` in quotes.
Prevention: the JSON Schema (`ftrun schema`) makes editors show such places while you type.
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


@check("REC002", title="the recipe is YAML")
def not_yaml(failed: RecipeFailed) -> Iterator[Finding]:
    """Tell where the file stops being YAML."""
    yield from findings_of(failed, "not_yaml")


@not_yaml.fault
def a_tab_indents(world: World) -> None:
    """A tab in front of a key."""
    world.recipe_text = "name: healthy\nmethod: sft\nmodel:\n\tpath: tiny\n"


@not_yaml.fault
def a_bracket_stays_open(world: World) -> None:
    """A list without its end."""
    world.recipe_text = "name: healthy\ndata: {train: [{path: train.jsonl}}\nmethod: sft\n"


@not_yaml.fault
def a_placeholder_is_left_in(world: World) -> None:
    """`{{ name }}` of a templating tool: YAML sees a mapping as a key."""
    world.recipe_text = "name: {{ name }}\nmethod: sft\n"
