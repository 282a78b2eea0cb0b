"""The answers stand in a column that is not used.

Symptom: the model learns to write questions; its answers are what they were before.
Cause: one column is mapped (`columns: {text: question}`) or is called `text`, and the answers stand in another.
Fix: map both: `columns: {prompt: question, completion: answer}`.
Prevention: look at a row with `ftrun preview`.
Source: told is a column named like an answer beside rows of plain text, where the text of most of the first 20 rows
does not hold it and it is at least a fifth as long: axolotl#2890. Files of lines of JSON and CSV are looked into.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.columns import SYNONYMS, read_first_rows, stands_elsewhere
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.rows import SourceHead
from ftrun.checks.stages import AtRecipe
from ftrun.schemas.errors import DataError
from ftrun.schemas.formats import recognise, rename
from ftrun.schemas.sections import Source

if TYPE_CHECKING:
    from ftrun.checks.testing import World

LONG = 0.2
ANSWERS = ("completion", *SYNONYMS["completion"], "chosen")


@check("DATA022", title="the answers are used", severity="warning", methods=("sft",))
def answers_unused(at: AtRecipe) -> Iterator[Finding]:
    """Tell plain text beside which a column of answers is left out."""
    judged = False
    for head in at.heads:
        source = at.source(head.key)
        if head.columns is None or not _is_text(head.columns, source, at.recipe.method):
            continue
        judged = True
        text = source.columns.get("text", "text")
        left = [name for name in head.columns if name != text and name.lower() in ANSWERS]
        rows = read_first_rows(Path(head.looked_for))
        for name in left:
            if stands_elsewhere(rows, text, name, LONG):
                yield _tell(at, head, text, name)
                break
    if not judged:
        raise NotApplicable("no source is plain text with named columns")


def _is_text(columns: tuple[str, ...], source: Source, method: str) -> bool:
    if source.format != "auto":
        return source.format == "text"
    try:
        return recognise(rename(dict.fromkeys(columns), source.columns), method) == "text"
    except DataError:  # DATA002 tells columns that fit no format
        return False


def _tell(at: AtRecipe, head: SourceHead, text: str, answer: str) -> Finding:
    mapping = {"prompt": text, "completion": answer}
    return Finding(
        message=f"{head.label} is trained on its column {text} alone, and its column {answer}, which the text does not "
        "hold, is not used.",
        fix=f"Write `columns: {{prompt: {text}, completion: {answer}}}` for {head.key}, without a format.",
        where=at.where(f"{head.key}.columns" if at.source(head.key).columns else f"{head.key}.path"),
        patch=Patch(f"{head.key}.columns", mapping),
    )


@answers_unused.fault
def only_the_question_is_mapped(world: World) -> None:
    """The mapping names one column."""
    world.rows = [{"question": row["prompt"], "answer": row["completion"]} for row in world.rows]
    world.recipe["data"]["train"][0]["columns"] = {"text": "question"}


@answers_unused.fault
def the_question_is_called_text(world: World) -> None:
    """The format is told from a column that is called so."""
    world.rows = [{"text": row["prompt"], "answer": row["completion"]} for row in world.rows]
