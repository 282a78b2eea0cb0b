"""`preflight.ignore` names a check that does not exist.

Symptom: a finding that was meant to be ignored stops the run, or one that a colleague's machine reports is ignored
nowhere.
Cause: the id is misspelt, it is that of a guard, or the package that brings the check is not installed here.
Fix: write the id as the finding shows it; a guard is turned off under `guards:`.
Prevention: copy ids from `ftrun checks`.
Source: a reason to ignore is kept in the record, so one that applies to nothing would say what is not so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.catalogue import load_checks, load_guards
from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtRecipe
from ftrun.schemas.spelling import nearest

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("REC018", title="ignored checks exist", severity="warning")
def ignored_check_unknown(at: AtRecipe) -> Iterator[Finding]:
    """Tell each ignored id that no check has."""
    ignored = at.recipe.preflight.ignore
    if not ignored:
        raise NotApplicable("the recipe ignores no check")
    known = {one.id for one in load_checks()}
    guards = {one.id: one.name for one in load_guards()}
    for id in sorted(ignored.keys() - known):
        where = at.where(f"preflight.ignore.{id}")
        if id in guards:
            yield Finding(
                message=f"{id} is a guard, which watches the run; preflight has none to ignore.",
                fix=f"Set guards.{guards[id]}.action: off instead.",
                where=where,
            )
            continue
        near = nearest(id, known)
        yield Finding(
            message=f"No check has the id {id}, so nothing is ignored.",
            fix=f"Write {near}, or remove it; `ftrun checks` lists the ids." if near else "Remove it.",
            where=where,
        )


@ignored_check_unknown.fault
def an_id_that_nobody_has(world: World) -> None:
    """An id that no check has."""
    world.recipe["preflight"] = {"ignore": {"DATA904": "our rows are long"}}


@ignored_check_unknown.fault
def a_guard(world: World) -> None:
    """The id of a guard."""
    world.recipe["preflight"] = {"ignore": {"GUARD001": "our loss is noisy"}}
