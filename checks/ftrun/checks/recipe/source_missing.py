"""A data file or folder is not there.

Symptom: training ends before it begins, or asks the hub for a data set that nobody published.
Cause: a misspelt path, or one that is relative to where the command runs: paths in a recipe are relative to
the recipe.
Fix: write the path that the message proposes.
Prevention: keep the data beside the recipe.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.paths import kind_of, nearest_path, suggest_path
from ftrun.checks.stages import AtRecipe

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("DATA001", title="every source of rows is there")
def source_missing(at: AtRecipe) -> Iterator[Finding]:
    """Tell each source whose file or folder is missing.

    A name with one `/` is an id of the hub, unless its first part is a folder here that holds a name alike.
    """
    folder = at.file.folder
    for head in at.heads:
        where = at.where(f"{head.key}.path")
        if head.place == "missing":
            message = f"{head.label} is not there (looked for {head.looked_for})."
            yield Finding(message, suggest_path(head.label, folder), where)
        elif head.place == "hub" and "/" in head.label:
            near = nearest_path(head.label, folder)
            if near is not None and kind_of(folder / head.label.split("/")[0]):
                message = f"{head.label} is neither a file nor a folder here, and would be asked of the hub."
                yield Finding(message, f"If you mean `{near}`, write that.", where, severity="warning")


@source_missing.fault
def a_misspelt_file(world: World) -> None:
    """Two letters change places."""
    world.recipe["data"]["train"] = [{"path": "trian.jsonl"}]


@source_missing.fault
def a_missing_evaluation_file(world: World) -> None:
    """Written into the recipe and never made."""
    world.recipe["data"]["eval"] = [{"path": "held_out/eval.jsonl"}]
    world.recipe["training"]["eval_strategy"] = "epoch"


@source_missing.fault
def a_misspelt_folder_that_reads_as_an_id(world: World) -> None:
    """One `/` and no ending: without the look beside the recipe it is an id of the hub."""
    (world.folder / "data" / "questions").mkdir(parents=True)
    world.recipe["data"]["train"] = [{"path": "data/qestions"}]
