"""Reading one file: a reader for each ending, one row after the other, and what is not a row is told.

JSON is read with the standard library and CSV keeps its text: no library guesses types, unifies the keys
of nested mappings or fills in nulls, so a row here is the row in the file.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from ftrun.checks.rows import BadRow
from ftrun.schemas.errors import DataError

Numbered = tuple[int, Any]
"""A row's number from 1 (in JSON Lines: its line), and the row: a mapping, or a BadRow that says what it is."""

COLUMNAR = (".parquet", ".arrow")
"""Endings that only pyarrow reads, which comes with the training packages."""

REFUSED: Mapping[str, str] = {
    **dict.fromkeys((".gz", ".bz2", ".xz", ".zst", ".zip", ".tar"), "is compressed: unpack it first"),
    **dict.fromkeys((".xlsx", ".xls"), "is a spreadsheet: save it as .csv"),
    ".tsv": "has tabs between its columns: save it as .csv, with commas",
    ".txt": 'is plain text: write each text as a line {"text": "…"} of a .jsonl file',
}
"""Endings that people give as data, and what to do with such a file."""

DECODER = json.JSONDecoder()
SPACE = re.compile(r"[ \t\n\r]*")

TOGETHER = 1000
"""Rows of a table that are objects at a time."""

LONGEST_FIELD = 2**31 - 1
"""Characters in one field of a CSV file; the csv module's own limit, 131,072, is less than a long document."""


def read_file(path: Path, label: str) -> Iterator[Numbered]:
    """The rows of a file, as they are read.

    Raises DataError, which calls the file `label`, where the file as a whole cannot be read (on).
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        known = ", ".join(suffix.removeprefix(".") for suffix in READERS)
        reason = REFUSED.get(path.suffix.lower(), "has an ending that ftrun does not know")
        raise DataError(f"{label} {reason} (ftrun reads {known})")
    try:
        for number, row in reader(path):
            yield number, row if isinstance(row, (dict, BadRow)) else BadRow(number, _not_a_row(row))
    except DataError as error:
        raise DataError(f"{label} {error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{label} is not UTF-8: {_undecodable(path)}; save it as UTF-8") from error
    except RecursionError as error:
        raise DataError(f"{label} is nested too deeply") from error
    except OSError as error:
        raise DataError(f"{label} cannot be read: {error.strerror or error}") from error


def read_columns(path: Path, label: str) -> tuple[str, ...] | None:
    """The columns of the first row that can be read; None where only pyarrow reads the file.

    Raises DataError as `read_file` does, and where there is no such row.
    """
    if path.suffix.lower() in COLUMNAR:
        return None
    bad: BadRow | None = None
    for _, row in read_file(path, label):
        if isinstance(row, dict):
            return tuple(row)
        bad = bad or row
    raise DataError(f"{label} holds no rows" + (f": row {bad.row}: {bad.reason}" if bad else ""))


def _not_a_row(value: Any) -> str:
    names = {
        list: "a list",
        str: "text",
        int: "a number",
        float: "a number",
        bool: "a boolean",
        type(None): "null",
    }
    return f"a row must be an object with named columns, found {names.get(type(value), type(value).__name__)}"


def _undecodable(path: Path) -> str:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f"byte 0x{line[error.start]:02x} in line {number}"
    return "it ends within a character"


def _read_json(path: Path) -> Iterator[Numbered]:
    """JSON Lines, one JSON list, or objects over several lines; the start tells which, not the ending."""
    with path.open("rb") as file:
        start = _skip_mark(file)
        file.seek(start)
        first = next((line.strip() for line in file if line.strip()), b"")
        file.seek(start)
        if first.startswith(b"["):
            yield from _read_list(file.read().decode())
        elif first == b"{":
            yield from _read_objects(file.read().decode())
        else:
            yield from _read_lines(file)


def _skip_mark(file: BinaryIO) -> int:
    """Where the text begins: after the byte order mark that Windows programs put before UTF-8."""
    mark = file.read(3)
    if mark[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError("is UTF-16: save it as UTF-8")
    return 3 if mark == b"\xef\xbb\xbf" else 0


def _read_lines(file: BinaryIO) -> Iterator[Numbered]:
    for number, line in enumerate(file, 1):
        try:
            row = json.loads(line.decode())
        except UnicodeDecodeError as error:
            yield number, BadRow(number, f"not UTF-8: byte 0x{line[error.start]:02x}")
        except (ValueError, RecursionError) as error:
            if line.strip():
                yield number, BadRow(number, f"not JSON: {error}")
        else:
            escaped = rb"\ud" in line or rb"\uD" in line
            yield number, _halved(number) if escaped and _is_halved(row) else row


def _read_list(text: str) -> Iterator[Numbered]:
    position = _after_space(text, text.index("[") + 1)
    number = 0
    while text[position : position + 1] != "]":
        number += 1
        row, position = _read_value(text, position, number)
        yield number, row
        if text[position : position + 1] == ",":
            position = _after_space(text, position + 1)
        elif text[position : position + 1] != "]":
            raise DataError(f"is not a JSON list: neither a comma nor a bracket follows row {number}")
    if _after_space(text, position + 1) != len(text):
        raise DataError(
            'goes on after the list that it starts with; rows are lines such as {"messages": […]}'
        )


def _read_objects(text: str) -> Iterator[Numbered]:
    position, number = _after_space(text, 0), 0
    while position < len(text):
        number += 1
        row, position = _read_value(text, position, number)
        yield number, row


def _read_value(text: str, position: int, number: int) -> tuple[Any, int]:
    """The value that begins at a position, and where the text goes on after it and its white space."""
    try:
        row, end = DECODER.raw_decode(text, position)
    except ValueError as error:
        raise DataError(f"is not JSON: row {number}: {error}") from error
    escaped = r"\ud" in text[position:end].lower()
    return _halved(number) if escaped and _is_halved(row) else row, _after_space(text, end)


def _after_space(text: str, position: int) -> int:
    match = SPACE.match(text, position)
    return match.end() if match else position


def _is_halved(row: Any) -> bool:
    r"""Whether a text holds half of a character, which JSON can write (`\ud83d` alone) and no tokenizer reads."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _halved(number: int) -> BadRow:
    return BadRow(number, r"holds half of a character (a surrogate such as \ud83d without its other half)")


def _read_csv(path: Path) -> Iterator[Numbered]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        limit = csv.field_size_limit(LONGEST_FIELD)
        lines = csv.reader(file, strict=True)
        try:
            filled = (values for values in lines if values)
            header = next(filled, [])
            _judge_header(header)
            for number, values in enumerate(filled, 1):
                if len(values) == len(header):
                    yield number, dict(zip(header, values, strict=True))
                else:
                    yield (
                        number,
                        BadRow(number, f"has {len(values)} columns, and the header has {len(header)}"),
                    )
        except csv.Error as error:
            raise DataError(f"is not CSV: line {lines.line_num}: {error}") from error
        finally:
            csv.field_size_limit(limit)


def _judge_header(header: list[str]) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"names the column {', '.join(twice)} twice in its header")
    other = next((mark for mark in ";\t|" if len(header) == 1 and mark in header[0]), None)
    if other:
        raise DataError(f"has {other!r} between its columns: save it with commas")


def _read_parquet(path: Path) -> Iterator[Numbered]:
    import pyarrow.lib
    import pyarrow.parquet

    try:
        # Not `read_table`, which makes columns of folder names such as `lang=en`.
        with pyarrow.parquet.ParquetFile(path) as file:
            yield from _number(file.iter_batches(TOGETHER))
    except pyarrow.lib.ArrowException as error:
        raise DataError(f"is not a parquet file: {error}") from error


def _read_arrow(path: Path) -> Iterator[Numbered]:
    import pyarrow.lib

    try:
        with pyarrow.memory_map(str(path)) as stream:
            try:
                table = pyarrow.ipc.open_stream(stream).read_all()
            except pyarrow.lib.ArrowInvalid:
                table = pyarrow.ipc.open_file(stream).read_all()
            # Reading trusts what the file says; places beyond its end would end the process.
            table.validate(full=True)
            yield from _number(table.to_batches(TOGETHER))
    except pyarrow.lib.ArrowException as error:
        raise DataError(f"is not an Arrow file: {error}") from error


def _number(parts: Iterable[Any]) -> Iterator[Numbered]:
    return enumerate(chain.from_iterable(part.to_pylist() for part in parts), 1)


READERS: Mapping[str, Callable[[Path], Iterator[Numbered]]] = {
    ".jsonl": _read_json,
    ".ndjson": _read_json,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
}
