"""Sources become examples: read, renamed, recognised, converted, with every row accounted for."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ftrun.checks.rows import BadRow, LossOn, SourceRows
from ftrun.runner.data.conversion import make_converter
from ftrun.runner.data.files import read_source
from ftrun.runner.data.readers import Numbered
from ftrun.runner.data.spool import SpooledExamples
from ftrun.schemas.errors import DataError
from ftrun.schemas.formats import COLUMNS, recognise, rename
from ftrun.schemas.sections import Source

FIRST = 1000
"""Rows whose columns tell the format, unless later ones have others."""


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
    """Read a source and convert its rows, one after the other.

    `loss_on` is what the recipe says; None lets the format decide. Raises DataError, which names the
    source, where it cannot be read or no format fits its columns.
    """
    rows = read_source(source, folder)
    first = list(islice(rows, FIRST))
    try:
        format = _choose_format(source, _survey(first).columns, method)
    except DataError:  # later rows may have the columns that these lack
        format = _choose_at_last(source, _survey(chain(first, rows)), method)
        read = _convert(read_source(source, folder), source, format, has_template)
    else:
        read = _convert(chain(first, rows), source, format, has_template)
        whole = _choose_at_last(source, read.survey, method)
        if whole != format:
            format = whole
            read = _convert(read_source(source, folder), source, format, has_template)
    chosen, reason = _choose_loss(loss_on, format, can_mark_turns)
    return SourceRows(
        label=source.path,
        key=key,
        format=format,
        columns=read.survey.columns,
        examples=read.examples,
        numbers=read.numbers,
        bad=read.bad,
        loss_on=chosen,
        loss_reason=reason,
        sides=2 if format == "preference" else 1,
    )


@dataclass(frozen=True)
class _Survey:
    """What rows have in common."""

    columns: tuple[str, ...]
    rows: int
    first: dict[str, Any] | None
    first_bad: BadRow | None


@dataclass(frozen=True)
class _Converted:
    """Examples, the row number of each, and the rows that are none."""

    examples: SpooledExamples
    numbers: array[int]
    bad: tuple[BadRow, ...]
    survey: _Survey


def _survey(rows: Iterable[Numbered]) -> _Survey:
    columns: dict[str, None] = {}
    count, first, first_bad = 0, None, None
    for _, row in rows:
        if isinstance(row, BadRow):
            first_bad = first_bad or row
            continue
        first = row if count == 0 else first
        count += 1
        columns |= dict.fromkeys(row)
    return _Survey(tuple(columns), count, first, first_bad)


def _convert(rows: Iterable[Numbered], source: Source, format: str, has_template: bool) -> _Converted:
    convert = make_converter(format, has_template)
    examples, numbers = SpooledExamples(), array("q")
    bad: list[BadRow] = []

    def take(rows: Iterable[Numbered]) -> Iterator[Numbered]:
        for number, row in rows:
            yield number, row
            if isinstance(row, BadRow):
                bad.append(row)
                continue
            try:
                found = convert(rename(row, source.columns) if source.columns else row)
            except DataError as error:
                bad.append(BadRow(number, str(error)))
                continue
            for example in found:
                examples.append(example)
                numbers.append(number)

    survey = _survey(take(rows))
    examples.finish()
    return _Converted(examples, numbers, tuple(bad), survey)


def _choose_at_last(source: Source, survey: _Survey, method: str) -> str:
    """The format, by the columns of all rows."""
    if not survey.rows:
        bad = survey.first_bad
        raise DataError(f"{source.path} holds no rows" + (f": row {bad.row}: {bad.reason}" if bad else ""))
    try:
        return _choose_format(source, survey.columns, method)
    except DataError as error:
        raise DataError(f"{source.path}: {error}{_hint_at_list(survey)}") from error


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


def _hint_at_list(survey: _Survey) -> str:
    """What to do with a file that is one object around its rows, such as `{"data": [...]}`."""
    row = survey.first
    if survey.rows != 1 or row is None:
        return ""
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
