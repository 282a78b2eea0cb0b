"""The columns of a source fit no format.

Symptom: `KeyError: 'text'` or a message about missing columns, after the model is loaded.
Cause: the file calls its columns otherwise (`question`, `answer`), `columns:` names one that the file lacks,
or `format:` is not the file's; or the file is a pointer of git-lfs, or a page of a web site, in place of the data.
Fix: map the format's names to the file's, as the message proposes: `columns: {prompt: question}`.
Prevention: `ftrun init METHOD DATA` writes the mapping.
Source: axolotl#2890, #2832, #3742, trl#2083.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.columns import guess_columns
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.rows import SourceHead
from ftrun.checks.stages import AtRecipe
from ftrun.schemas.errors import DataError
from ftrun.schemas.formats import COLUMNS, FORMATS, describe_needs, recognise, rename
from ftrun.schemas.sections import Source
from ftrun.schemas.spelling import nearest

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("DATA002", title="every source has the columns of a format", methods=("sft", "reward", "dpo"))
def wrong_columns(at: AtRecipe) -> Iterator[Finding]:
    """Tell each source whose first row cannot be read or has columns that fit no format."""
    for head in at.heads:
        if head.problem is not None:
            problem, fix = _look_inside(head) or (
                f"cannot be read: {head.problem}",
                "Correct that, or write the path of a file whose rows are objects with named columns.",
            )
            yield Finding(f"{head.label} {problem}.", fix, at.where(f"{head.key}.path"))
        elif head.columns is not None:
            yield from _judge(at, head, head.columns, at.source(head.key))


def _look_inside(head: SourceHead) -> tuple[str, str] | None:
    """What a file is that stands in place of the data, and the remedy; None where it is none that is known."""
    try:
        with Path(head.looked_for).open("rb") as file:
            start = file.read(200).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    except (OSError, ValueError):
        return None
    if start.startswith(b"version https://git-lfs.github.com"):
        return (
            "is a pointer of git-lfs: the data itself was not downloaded",
            "Run `git lfs pull` in its repository.",
        )
    if start.startswith((b"<!doctype html", b"<html")):
        fix = "Download the file itself, with `resolve` or `raw` in its address, and signed in where that is needed."
        return "is a web page: its address was of a page about the file, or asked to sign in", fix
    return None


def _judge(at: AtRecipe, head: SourceHead, columns: Sequence[str], source: Source) -> Iterator[Finding]:
    method = at.recipe.method
    problem = _problem(method, source.format, columns, source.columns)
    if problem is None:
        return
    shown = ", ".join(columns)
    message = f"{head.label} has the columns {shown}: {problem}."
    if source.format != "auto" and (other := _recognised(method, columns, source.columns)):
        fix = f"Write `format: {other}` for {head.key}: its columns are there."
        where, patch = at.where(f"{head.key}.format"), Patch(f"{head.key}.format", other)
        yield Finding(message, fix, where, patch=patch)
        return
    where = at.where(f"{head.key}.columns" if source.columns else f"{head.key}.path")
    mapping = _repair(method, source, columns)
    if mapping is None:
        yield Finding(message, _general_fix(method, source, head.key), where)
        return
    fix = f"Write `columns: {_yaml(mapping)}` for {head.key}." if mapping else f"Remove {head.key}.columns."
    yield Finding(
        message,
        fix,
        where,
        _unused(method, source.format, columns, mapping),
        Patch(f"{head.key}.columns", mapping),
    )


def _problem(method: str, format: str, columns: Sequence[str], mapping: Mapping[str, str]) -> str | None:
    """What keeps these columns from being rows of the format; None where they are.

    A column that `mapping` names and the first row lacks is none where the format does without it: the next
    row may have it.
    """
    renamed = rename(dict.fromkeys(columns), mapping)
    if format == "auto":
        missing = [] if _recognised(method, columns, mapping) else [""]
    else:
        missing = [name for name in COLUMNS[format][0] if name not in renamed]
    if not missing:
        return None
    absent = [theirs for theirs in mapping.values() if theirs not in columns]
    if absent:
        return f"`columns:` names {', '.join(absent)}, and there is no such column"
    if format == "auto":
        return f"with `columns: {_yaml(mapping)}` no format fits" if mapping else "no format fits"
    return f"format {format} needs {', '.join(missing)}"


def _recognised(method: str, columns: Sequence[str], mapping: Mapping[str, str]) -> str | None:
    try:
        return recognise(rename(dict.fromkeys(columns), mapping), method)
    except DataError:
        return None


def _repair(method: str, source: Source, columns: Sequence[str]) -> dict[str, str] | None:
    """A mapping with which a format fits: what is written, respelt or turned around, else a guess by name."""
    written = source.columns
    if written:
        respelt = {ours: _respelt(theirs, columns) for ours, theirs in written.items()}
        turned = {theirs: ours for ours, theirs in written.items()}
        for mapping in (respelt, turned, {}):
            if _problem(method, source.format, columns, mapping) is None and set(mapping.values()) <= set(
                columns
            ):
                return mapping
    formats = FORMATS[method] if source.format == "auto" else (source.format,)
    given = {ours: theirs for ours, theirs in written.items() if theirs in columns}
    return guess_columns(columns, formats, given)


def _respelt(name: str, columns: Sequence[str]) -> str:
    return name if name in columns else nearest(name, columns) or name


def _unused(method: str, format: str, columns: Sequence[str], mapping: Mapping[str, str]) -> tuple[str, ...]:
    renamed = rename(dict.fromkeys(columns), mapping)
    chosen = recognise(renamed, method) if format == "auto" else format
    left = [name for name in renamed if name not in (*COLUMNS[chosen][0], *COLUMNS[chosen][1])]
    return (f"not used then: {', '.join(left)}",) if left else ()


def _general_fix(method: str, source: Source, key: str) -> str:
    if source.format != "auto":
        names = COLUMNS[source.format][0]
        asked = ", ".join(f"{name}: <its name there>" for name in names)
        return f"Name the columns of format {source.format} for {key}: `columns: {{{asked}}}`."
    needs = describe_needs(method)
    return f"Name a format's columns for {key}, as in `columns: {{prompt: <its name there>}}` ({needs})."


def _yaml(mapping: Mapping[str, Any]) -> str:
    return f"{{{', '.join(f'{_word(ours)}: {_word(theirs)}' for ours, theirs in mapping.items())}}}"


def _word(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_][\w-]*", name) else json.dumps(name, ensure_ascii=False)


@wrong_columns.fault
def questions_and_answers(world: World) -> None:
    """The columns have names of their own."""
    world.rows = [{"question": row["prompt"], "answer": row["completion"]} for row in world.rows]


@wrong_columns.fault
def a_mapping_to_a_misspelt_column(world: World) -> None:
    """`columns:` names what is not there."""
    world.rows = [{"question": row["prompt"], "answer": row["completion"]} for row in world.rows]
    world.recipe["data"]["train"][0]["columns"] = {"prompt": "questoin", "completion": "answer"}


@wrong_columns.fault
def a_mapping_the_wrong_way_round(world: World) -> None:
    """The file's names, each with the format's."""
    world.rows = [{"question": row["prompt"], "answer": row["completion"]} for row in world.rows]
    world.recipe["data"]["train"][0]["columns"] = {"question": "prompt", "answer": "completion"}


@wrong_columns.fault
def another_format_than_the_file_has(world: World) -> None:
    """`format:` was copied from another recipe."""
    world.recipe["data"]["train"][0]["format"] = "alpaca"


@wrong_columns.fault
def rows_without_columns(world: World) -> None:
    """A file of texts, not of objects."""
    (world.folder / "texts.jsonl").write_text('"a text"\n"another"\n', encoding="utf-8")
    world.recipe["data"]["train"][0]["path"] = "texts.jsonl"


@wrong_columns.fault
def a_pointer_of_git_lfs(world: World) -> None:
    """A clone without git-lfs."""
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{64 * '0'}\nsize 81920\n"
    (world.folder / "texts.jsonl").write_text(pointer, encoding="utf-8")
    world.recipe["data"]["train"][0]["path"] = "texts.jsonl"
