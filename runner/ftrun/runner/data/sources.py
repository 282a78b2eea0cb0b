"""Sources become examples: read, renamed, recognised, converted, with every row accounted for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftrun.checks.rows import BadRow, LossOn, SourceRows
from ftrun.runner.data.conversion import make_converter
from ftrun.runner.data.files import read_source
from ftrun.schemas.errors import DataError
from ftrun.schemas.formats import COLUMNS, recognise, rename
from ftrun.schemas.sections import Source


def load_source(
    source: Source,
    key: str,
    folder: Path,
    *,
    loss_on: LossOn | None,
    has_template: bool,
    can_mark_turns: bool,
) -> SourceRows:
    """Read a source and convert its rows.

    `loss_on` is what the recipe says; None lets the format decide. Raises DataError, which names the
    source, where it cannot be read or no format fits its columns.
    """
    read = read_source(source, folder)
    columns = tuple(dict.fromkeys(name for _, row in read.rows[:100] for name in row))
    renamed = tuple(rename(dict.fromkeys(columns), source.columns))
    if not read.rows:
        reason = f": {read.bad[0].reason} (row {read.bad[0].row})" if read.bad else ""
        raise DataError(f"{source.path} holds no rows{reason}")
    format = _choose_format(source, columns, renamed)
    convert = make_converter(format, has_template)
    examples: list[dict[str, Any]] = []
    numbers: list[int] = []
    bad = list(read.bad)
    for number, row in read.rows:
        try:
            examples.append(convert(rename(row, source.columns)))
            numbers.append(number)
        except DataError as error:
            bad.append(BadRow(number, str(error)))
    chosen, reason = _choose_loss(loss_on, format, can_mark_turns)
    return SourceRows(
        label=source.path,
        key=key,
        format=format,
        columns=columns,
        examples=examples,
        numbers=numbers,
        bad=tuple(sorted(bad, key=lambda row: row.row)),
        loss_on=chosen,
        loss_reason=reason,
    )


def _choose_format(source: Source, columns: tuple[str, ...], renamed: tuple[str, ...]) -> str:
    absent = sorted(set(source.columns.values()) - set(columns))
    if absent:
        raise DataError(
            f"{source.path} has no column {', '.join(absent)}, which `columns` names; it has {', '.join(columns)}"
        )
    if source.format == "auto":
        try:
            return recognise(renamed)
        except DataError as error:
            raise DataError(f"{source.path}: {error}") from error
    missing = [name for name in COLUMNS[source.format][0] if name not in renamed]
    if missing:
        raise DataError(
            f"{source.path} has no column {', '.join(missing)}, which format {source.format} needs; "
            f"it has {', '.join(columns)}. Rename with `columns: {{{missing[0]}: <its name there>}}`"
        )
    return source.format


def _choose_loss(loss_on: LossOn | None, format: str, can_mark_turns: bool) -> tuple[LossOn, str]:
    if loss_on is not None:
        return loss_on, "as the recipe says"
    if format == "text":
        return "all", "text has no prompt"
    if format in ("messages", "sharegpt"):
        if can_mark_turns:
            return "assistant", "every turn of the assistant"
        return "completion", "the last turn: the chat template does not mark the assistant's turns"
    return "completion", "rows have a prompt and an answer"
