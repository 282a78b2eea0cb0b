"""A column that belongs to prompt or answer is left out.

Symptom: the model answers with a category or an id; or its prompts are an instruction without the text that it is
about, and it makes up an answer; or it ignores the system messages that its answers were written for.
Cause: `columns:` names the wrong column for the answer, or leaves out the one with the input or the system message.
Fix: name the right column under `columns:`; to put an instruction and its input together, use the Alpaca format
(`columns: {instruction: …, input: …, system: …, output: …}`).
Prevention: look at a row with `ftrun preview`.
Source: told are an answer mapped to a column of another name, while one that is called like an answer is left out and
holds more text in all; and a column called like an input (`input`, `context`, `passage` and the like) that is left out,
differs in nine of ten rows that have it, and stands in none of the others. One of these has to hold: fewer than half of
the prompts are different in the first 20 rows; the format has a place for an input that is empty. Questions may be
asked without the book on purpose. A column called like a system message is told where it holds several. Files of lines
of JSON and CSV are looked into.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.columns import SYNONYMS, read_first_rows, stands_elsewhere, text_of
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import squeeze
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.rows import SourceHead
from ftrun.checks.stages import AtData
from ftrun.schemas.formats import COLUMNS

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
CONTEXTS = ("context", "passage", "document", "paragraph")
"""Inputs whose name says that something else is about them."""

SYSTEMS = ("system", "system_prompt", "system_message", "system_instruction", "sys", "sys_prompt")
LONGER = 1.0
SOME, HALF, NEARLY_ALL = 0.2, 0.5, 0.9
LENGTH = 20
"""Characters of an input, on average."""

ENOUGH = 10


@check("DATA077", title="no column of prompt or answer is left out", severity="warning", methods=("sft",))
def columns_left_out(at: AtData) -> Iterator[Finding]:
    judged = False
    formats = {source.key: source.format for source in at.sources}
    for head in at.heads:
        mapping, format = at.source(head.key).columns, formats.get(head.key, "text")
        rows = read_first_rows(Path(head.looked_for)) if head.place == "file" and format != "text" else []
        if len(rows) < ENOUGH:
            continue
        judged = True
        yield from _judge_system(at, head, mapping, rows, format)
        if format == "alpaca" or "prompt" in mapping or "completion" in mapping:
            yield from _judge(at, head, mapping, rows, format)
    if not judged:
        raise NotApplicable("no source is a file of rows with prompts and answers")


def _judge_system(
    at: AtData, head: SourceHead, mapping: Mapping[str, str], rows: Sequence[Mapping[str, Any]], format: str
) -> Iterator[Finding]:
    read = _read_columns(mapping, format)
    for name in (one for one in head.columns or () if one.lower() in SYSTEMS and one not in read):
        texts = {str(row[name]).strip() for row in rows if row.get(name)}
        if len(texts) > 1 and not any(_is_within(rows, name, other) for other in read):
            yield Finding(
                message=f"{head.label}: the column {name} holds {len(texts)} different system messages in the first "
                f"{len(rows)} rows, and is not used: answers lack what they were told.",
                fix=f"Write `system: {name}` under `columns:`, if need be with `format: alpaca`, or put it into the "
                "messages.",
                where=at.where(f"{head.key}.columns" if mapping else f"{head.key}.path"),
                patch=Patch(f"{head.key}.columns", {**mapping, "system": name})
                if "system" in COLUMNS[format][1]
                else None,
            )


def _read_columns(mapping: Mapping[str, str], format: str) -> list[str]:
    """The columns of the file that the format reads, if they are there."""
    needed, possible = COLUMNS[format]
    return [mapping.get(name, name) for name in (*needed, *possible)]


def _judge(
    at: AtData, head: SourceHead, mapping: Mapping[str, str], rows: Sequence[Mapping[str, Any]], format: str
) -> Iterator[Finding]:
    asking, answering = ("instruction", "output") if format == "alpaca" else ("prompt", "completion")
    prompt, answer = mapping.get(asking, asking), mapping.get(answering, answering)
    read = _read_columns(mapping, format)
    left = [name for name in head.columns or () if name not in read]
    if answer.lower() not in ANSWERS:
        for name in (one for one in left if one.lower() in ANSWERS and one.lower() not in INPUTS):
            if stands_elsewhere(rows, answer, name, LONGER) and stands_elsewhere(rows, prompt, name, 0.0):
                yield Finding(
                    message=f"{head.label}: the column {answer} is the answer, and {name} is not used.",
                    fix=f"Write `columns: {{{asking}: {prompt}, {answering}: {name}}}`.",
                    where=at.where(f"{head.key}.columns"),
                    patch=Patch(f"{head.key}.columns", {**mapping, answering: name}),
                )
                return
    unfilled = format == "alpaca" and mapping.get("input", "input") not in (head.columns or ())
    for name in (one for one in left if one.lower() in INPUTS):
        if _is_needed(rows, name, prompt, unfilled) and not any(
            _is_within(rows, name, other) for other in read
        ):
            asked = {str(row.get(prompt)) for row in rows}
            filled = sum(bool(row.get(name)) for row in rows)
            yield Finding(
                message=f"{head.label}: {len(asked)} of the first {len(rows)} prompts are different, and the column "
                f"{name}, which {filled} of these rows fill, is not used: prompts lack what they are about.",
                fix=f"Write `columns: {{instruction: {prompt}, input: {name}, output: {answer}}}`.",
                where=at.where(f"{head.key}.columns" if mapping else f"{head.key}.path"),
                patch=Patch(f"{head.key}.columns", {"instruction": prompt, "input": name, "output": answer}),
            )


def _is_needed(rows: Sequence[Mapping[str, Any]], name: str, prompt: str, unfilled: bool) -> bool:
    """Whether prompts are about the column `name`: they are alike without it, or the format's place for an input is
    `unfilled`."""
    inputs = [str(row[name]) for row in rows if row.get(name)]
    differ = len(set(inputs)) >= NEARLY_ALL * len(inputs) and sum(map(len, inputs)) >= LENGTH * len(inputs)
    asked = {str(row.get(prompt)) for row in rows}
    if len(asked) < HALF * len(rows) and len(inputs) >= NEARLY_ALL * len(rows):
        return differ
    return differ and unfilled and name.lower() in CONTEXTS and len(inputs) >= SOME * len(rows)


def _is_within(rows: Sequence[Mapping[str, Any]], name: str, other: str) -> bool:
    """Whether half of the texts in a column stand in another column of their rows as well."""
    told = [(squeeze(str(row[name])), squeeze(text_of(row.get(other)))) for row in rows if row.get(name)]
    return sum(text in whole for text, whole in told) >= HALF * len(told)


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


@columns_left_out.fault
def the_context_of_some_is_left_out(world: World) -> None:
    world.rows = [
        {
            "instruction": row["prompt"],
            "context": f"In room {n}: {row['completion']}" if n % 2 else "",
            "response": row["completion"],
        }
        for n, row in enumerate(world.rows)
    ]
    world.recipe["data"]["train"][0]["columns"] = {"output": "response"}


@columns_left_out.fault
def the_system_message_is_left_out(world: World) -> None:
    for number, row in enumerate(world.rows):
        row["system_prompt"] = ("Answer as a pirate.", "Answer in one word.")[number % 2]
