"""Sources become examples: read, renamed, recognised, converted, with every row accounted for."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

from ftrun.checks.rows import BadRow, LossOn, SourceRows
from ftrun.runner.data.conversion import make_converter
from ftrun.runner.data.files import FileRows, read_source
from ftrun.schemas.errors import DataError
from ftrun.schemas.formats import COLUMNS, recognise, rename
from ftrun.schemas.sections import Source


def load_source(
    source: Source,
    key: str,
    folder: Path,
    *,
    method: str,
    loss_on: LossOn | None,
    has_template: bool,
    can_mark_turns: bool,
) -> SourceRows:
    """Read a source and convert its rows.

    `loss_on` is what the recipe says; None lets the format decide. Raises DataError, which names the
    source, where it cannot be read or no format fits its columns.
    """
    read = read_source(source, folder)
    if not read.rows:
        reason = f": row {read.bad[0].row}: {read.bad[0].reason}" if read.bad else ""
        raise DataError(f"{source.path} holds no rows{reason}")
    columns = tuple(dict.fromkeys(chain.from_iterable(row for _, row in read.rows)))
    try:
        format = _choose_format(source, columns, method)
    except DataError as error:
        raise DataError(f"{source.path}: {error}{_hint_at_list(read)}") from error
    examples, numbers, bad = _convert(read, source, format, has_template)
    chosen, reason = _choose_loss(loss_on, format, can_mark_turns)
    return SourceRows(
        label=source.path,
        key=key,
        format=format,
        columns=columns,
        examples=examples,
        numbers=numbers,
        bad=bad,
        loss_on=chosen,
        loss_reason=reason,
        sides=2 if format == "preference" else 1,
    )


def _convert(
    read: FileRows, source: Source, format: str, has_template: bool
) -> tuple[list[dict[str, Any]], list[int], tuple[BadRow, ...]]:
    """Examples, the row number of each, and the rows that are none."""
    convert = make_converter(format, has_template)
    examples: list[dict[str, Any]] = []
    numbers: list[int] = []
    bad = list(read.bad)
    for number, row in read.rows:
        try:
            found = convert(rename(row, source.columns) if source.columns else row)
            examples += found
            numbers += [number] * len(found)
        except DataError as error:
            bad.append(BadRow(number, str(error)))
    return examples, numbers, tuple(sorted(bad, key=lambda row: row.row))


def _choose_format(source: Source, columns: tuple[str, ...], method: str) -> str:
    absent = sorted(set(source.columns.values()) - set(columns))
    there = ", ".join(columns)
    if absent:
        raise DataError(f"there is no column {', '.join(absent)}, which `columns` names; there is {there}")
    renamed = tuple(rename(dict.fromkeys(columns), source.columns))
    if source.format == "auto":
        return recognise(renamed, method)
    missing = [name for name in COLUMNS[source.format][0] if name not in renamed]
    if missing:
        raise DataError(
            f"there is no column {', '.join(missing)}, which format {source.format} needs; there is {there}. "
            f"Rename with `columns: {{{missing[0]}: <its name there>}}`"
        )
    return source.format


def _hint_at_list(read: FileRows) -> str:
    """What to do with a file that is one object around its rows, such as `{"data": [...]}`."""
    if len(read.rows) != 1:
        return ""
    _, row = read.rows[0]
    lists = {key: value for key, value in row.items() if isinstance(value, list) and value}
    key = next((key for key, value in lists.items() if all(isinstance(one, dict) for one in value)), None)
    if key is None:
        return ""
    return (
        f". The file is one object, whose key {key} holds a list of {len(lists[key])} objects: if those are "
        f"the rows, write that list to a file of its own"
    )


def _choose_loss(loss_on: LossOn | None, format: str, can_mark_turns: bool) -> tuple[LossOn, str]:
    if format == "prompts":
        return "nothing", "the model answers while it trains"
    if loss_on is not None:
        return loss_on, "as the recipe says"
    if format == "text":
        return "all", "text has no prompt"
    if format in ("messages", "sharegpt"):
        if can_mark_turns:
            return "assistant", "every turn of the assistant"
        return "completion", "the last turn: the chat template does not mark the assistant's turns"
    return "completion", "rows have a prompt and an answer"
