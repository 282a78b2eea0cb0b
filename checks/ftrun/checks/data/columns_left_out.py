"""A column that belongs to prompt or answer is left out.

Symptom: the model answers with a category or an id; or its prompts are an instruction without the text that it is
about, and it makes up an answer.
Cause: `columns:` names the wrong column for the answer, or leaves out the one with the input.
Fix: name the right column under `columns:`; to put an instruction and its input together, use the Alpaca format
(`columns: {instruction: …, input: …, output: …}`).
Prevention: look at a row with `ftrun preview`.
Source: told are an answer mapped to a column of another name, while one that is called like an answer is left out and
holds more text in all; and prompts of which fewer than half are different in the first 20 rows, while a column called
like an input (`input`, `context`, `passage` and the like) is left out and differs in nine of ten. An instruction that
says all by itself differs from row to row. Files of lines of JSON and CSV are looked into.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.columns import SYNONYMS, read_first_rows, stands_elsewhere
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.rows import SourceHead
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

ANSWERS = ("completion", *SYNONYMS["completion"])
INPUTS = (
    "input",
    "context",
    "passage",
    "document",
    "text",
    "article",
    "paragraph",
    "body",
    "source_text",
    "content",
)
LONGER = 1.0
HALF, NEARLY_ALL = 0.5, 0.9
LENGTH = 20
"""Characters of an input, on average."""

ENOUGH = 10


@check("DATA077", title="no column of prompt or answer is left out", severity="warning", methods=("sft",))
def columns_left_out(at: AtData) -> Iterator[Finding]:
    judged = False
    for head in at.heads:
        mapping = at.source(head.key).columns
        if head.place != "file" or ("prompt" not in mapping and "completion" not in mapping):
            continue
        rows = read_first_rows(Path(head.looked_for))
        if len(rows) >= ENOUGH:
            judged = True
            yield from _judge(at, head, mapping, rows)
    if not judged:
        raise NotApplicable("no source with prompts and answers maps its columns")


def _judge(
    at: AtData, head: SourceHead, mapping: Mapping[str, str], rows: Sequence[Mapping[str, Any]]
) -> Iterator[Finding]:
    prompt, answer = mapping.get("prompt", "prompt"), mapping.get("completion", "completion")
    left = [name for name in head.columns or () if name not in mapping.values()]
    if answer.lower() not in ANSWERS:
        for name in (one for one in left if one.lower() in ANSWERS and one.lower() not in INPUTS):
            if stands_elsewhere(rows, answer, name, LONGER) and stands_elsewhere(rows, prompt, name, 0.0):
                yield Finding(
                    message=f"{head.label}: the column {answer} is the answer, and {name} is not used.",
                    fix=f"Write `columns: {{prompt: {prompt}, completion: {name}}}`.",
                    where=at.where(f"{head.key}.columns"),
                    patch=Patch(f"{head.key}.columns", {**mapping, "completion": name}),
                )
                return
    asked = {str(row.get(prompt)) for row in rows}
    for name in (one for one in left if one.lower() in INPUTS):
        inputs = [str(row[name]) for row in rows if row.get(name)]
        if (
            len(asked) < HALF * len(rows)
            and len(set(inputs)) >= NEARLY_ALL * len(rows)
            and sum(map(len, inputs)) >= LENGTH * len(inputs)
        ):
            yield Finding(
                message=f"{head.label}: {len(asked)} of the first {len(rows)} prompts are different, and the column "
                f"{name}, which is another in each row, is not used: prompts lack what they are about.",
                fix=f"Write `columns: {{instruction: {prompt}, input: {name}, output: {answer}}}`.",
                where=at.where(f"{head.key}.columns"),
                patch=Patch(f"{head.key}.columns", {"instruction": prompt, "input": name, "output": answer}),
            )


@columns_left_out.fault
def the_category_is_the_answer(world: World) -> None:
    world.rows = [
        {"question": row["prompt"], "answer": row["completion"], "category": "house"} for row in world.rows
    ]
    world.recipe["data"]["train"][0]["columns"] = {"prompt": "question", "completion": "category"}


@columns_left_out.fault
def the_input_is_left_out(world: World) -> None:
    world.rows = [
        {
            "task": "Which question is this the answer of?",
            "context": row["completion"],
            "reply": row["prompt"],
        }
        for row in world.rows
    ]
    world.recipe["data"]["train"][0]["columns"] = {"prompt": "task", "completion": "reply"}
