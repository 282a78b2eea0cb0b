"""The prompts stand in a column that is not used.

Symptom: pairs train, and the model answers as if it had not been asked.
Cause: a column of pairs is called `question` or `instruction` and not `prompt`, so it is left out: pairs may do
without one, since many hold the question on both sides.
Fix: name it: `columns: {prompt: question}`.
Prevention: look at a pair with `ftrun preview`.
Source: told is a column named like a prompt beside `chosen` and `rejected` where neither `prompt` nor `conversations`
is, and where the chosen answers of most of the first 20 rows do not hold it. Files of lines of JSON and CSV are looked
into.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.columns import find_prompt, read_first_rows, stands_elsewhere
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.stages import AtRecipe
from ftrun.schemas.formats import rename

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("DATA029", title="the prompts are used", methods=("reward", "dpo"))
def prompts_unused(at: AtRecipe) -> Iterator[Finding]:
    """Tell pairs beside which a column of prompts is left out."""
    judged = False
    for head in at.heads:
        mapping = at.source(head.key).columns
        names = rename(dict.fromkeys(head.columns or ()), mapping)
        if head.columns is None or not {"chosen", "rejected"} <= names.keys():
            continue
        judged = True
        prompt = find_prompt(list(names))
        chosen = mapping.get("chosen", "chosen")
        if prompt and stands_elsewhere(read_first_rows(Path(head.looked_for)), chosen, prompt, 0.0):
            key = f"{head.key}.columns"
            yield Finding(
                message=f"{head.label} holds pairs without a prompt, and its column {prompt}, which the answers do not "
                "hold, is not used.",
                fix=f"Write `columns: {{prompt: {prompt}}}` for {head.key}.",
                where=at.where(key if mapping else f"{head.key}.path"),
                patch=Patch(key, {**mapping, "prompt": prompt}),
            )
    if not judged:
        raise NotApplicable("no source holds pairs whose columns a look tells")


@prompts_unused.fault
def the_prompt_is_called_question(world: World) -> None:
    """A name that the format does not know."""
    world.rows = [{("question" if key == "prompt" else key): row[key] for key in row} for row in world.rows]
