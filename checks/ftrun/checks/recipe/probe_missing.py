"""The questions of the probe are not there.

Symptom: the run ends before its first step, with the model loaded and all rows prepared.
Cause: `guards.knowledge_forgotten.probe` names a file by a misspelt path, or by one that is relative to where the
command runs: paths in a recipe are relative to the recipe.
Fix: write the path that the message proposes, or remove the key: then questions that come with ftrun are asked.
Prevention: keep the questions beside the recipe.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.paths import kind_of, located, suggest_path
from ftrun.checks.stages import AtRecipe

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("DATA051", title="the questions of the probe are there", methods=("sft", "dpo", "ppo"))
def probe_missing(at: AtRecipe) -> Iterator[Finding]:
    settings = at.recipe.guards.knowledge_forgotten
    if settings.probe is None or not settings.action:
        raise NotApplicable("the recipe brings no questions of its own")
    path = located(settings.probe, at.file.folder)
    if kind_of(path) != "file":
        yield Finding(
            f"{settings.probe} is not there (looked for {path}).",
            suggest_path(settings.probe, at.file.folder),
            at.where("guards.knowledge_forgotten.probe"),
        )


@probe_missing.fault
def a_misspelt_probe(world: World) -> None:
    world.recipe["guards"] = {"knowledge_forgotten": {"probe": "questoins.jsonl"}}
