"""Reading a source: files, folders and hub data sets become plain rows, and what is not a row is told.

JSON is read with the standard library and CSV keeps its text: no library guesses types, unifies the keys
of nested mappings or fills in nulls, so a row here is the row in the file.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

from ftrun.checks.rows import BadRow, SourceHead
from ftrun.schemas.errors import DataError
from ftrun.schemas.sections import Source

FileRow = tuple[int, dict[str, Any]]


@dataclass(frozen=True)
class FileRows:
    """The rows of a source as they stand in its files. Numbers count from 1."""

    rows: tuple[FileRow, ...]
    bad: tuple[BadRow, ...]


def read_source(source: Source, folder: Path) -> FileRows:
    """Read all rows of a source.

    Paths are relative to `folder`. Raises DataError, which names the source, where nothing can be read.
    """
    path = folder / Path(source.path).expanduser()
    if path.is_file():
        return _read_file(path, source.path)
    if path.is_dir():
        return _read_folder(path, source)
    if _looks_like_file(source.path):
        raise DataError(f"{source.path} is not there (looked for {path})")
    return _read_hub(source)


def read_head(source: Source, key: str, folder: Path) -> SourceHead:
    """A first look at a source: whether it is there, and the columns of its first row."""
    path = folder / Path(source.path).expanduser()
    if path.is_dir():
        return SourceHead(source.path, key, "folder", str(path))
    if not path.is_file():
        place: Literal["missing", "hub"] = "missing" if _looks_like_file(source.path) else "hub"
        return SourceHead(source.path, key, place, str(path))
    try:
        columns = _read_columns(path)
    except DataError as error:
        return SourceHead(source.path, key, "file", str(path), problem=str(error))
    return SourceHead(source.path, key, "file", str(path), columns=columns)


def _read_columns(path: Path) -> tuple[str, ...] | None:
    """Columns of the first row; None for files that only the training packages read."""
    if path.suffix not in READERS:
        raise DataError(f"{path.name} has an ending that ftrun does not read; it reads {_known_endings()}")
    if path.suffix in (".parquet", ".arrow"):
        return None
    try:
        if path.suffix == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as file:
                row: Any = dict.fromkeys(next(csv.reader(file), ()))
        else:
            with path.open(encoding="utf-8-sig") as file:
                row = _first_json(file)
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not UTF-8: byte {error.start} cannot be read") from error
    except OSError as error:
        raise DataError(f"{path.name} cannot be read: {error.strerror or error}") from error
    if not isinstance(row, dict) or not row:
        raise DataError(
            f"the first row of {path.name} is {_kind(row)}; a row is an object with named columns"
        )
    return tuple(row)


def _first_json(file: TextIO) -> Any:
    """The first object of JSON Lines or of a list; reads as little as holds it."""
    text = ""
    while chunk := file.read(65536):
        text += chunk
        body = text.lstrip().removeprefix("[").lstrip()
        try:
            return json.JSONDecoder().raw_decode(body)[0]
        except ValueError as error:
            problem = error
        except RecursionError as error:
            raise DataError("the first row is nested too deeply") from error
    if not text.strip():
        raise DataError("the file is empty")
    raise DataError(f"the first row is not JSON: {problem}")


def _looks_like_file(path: str) -> bool:
    return Path(path).suffix in READERS or path.startswith((".", "/", "~")) or path.count("/") > 1


def _read_file(path: Path, label: str) -> FileRows:
    reader = READERS.get(path.suffix)
    if reader is None:
        raise DataError(f"{label} has an ending that ftrun does not read; it reads {_known_endings()}")
    rows: list[FileRow] = []
    bad: list[BadRow] = []
    try:
        for number, row in reader(path):
            if isinstance(row, BadRow):
                bad.append(row)
            elif isinstance(row, dict):
                rows.append((number, row))
            else:
                bad.append(BadRow(number, f"a row must be an object with named columns, found {_kind(row)}"))
    except UnicodeDecodeError as error:
        raise DataError(f"{label} is not UTF-8: byte {error.start} cannot be read") from error
    except OSError as error:
        raise DataError(f"{label} cannot be read: {error.strerror or error}") from error
    return FileRows(tuple(rows), tuple(bad))


def _known_endings() -> str:
    return ", ".join(suffix.removeprefix(".") for suffix in READERS)


def _kind(value: Any) -> str:
    names = {list: "a list", str: "text", int: "a number", float: "a number", bool: "a boolean"}
    return names.get(type(value), "null" if value is None else type(value).__name__)


def _read_lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, BadRow(number, f"not JSON: {error}")


def _read_json(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        head = file.read(4096).lstrip()
        file.seek(0)
        if not head.startswith("["):
            # Many data sets name JSON Lines `.json`.
            yield from _read_lines(path)
            return
        try:
            rows = json.load(file)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path.name} is not JSON: {error}") from error
    yield from enumerate(rows, 1)


def _read_csv(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), 1):
            if None in row or None in row.values():
                yield number, BadRow(number, "has another number of columns than the header")
            else:
                yield number, row


def _read_parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow.lib
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.lib.ArrowException as error:
        raise DataError(f"{path.name} is not a parquet file: {error}") from error
    yield from enumerate(table.to_pylist(), 1)


def _read_arrow(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow.lib

    try:
        with pyarrow.memory_map(str(path)) as stream:
            try:
                table = pyarrow.ipc.open_stream(stream).read_all()
            except pyarrow.lib.ArrowInvalid:
                table = pyarrow.ipc.open_file(stream).read_all()
            yield from enumerate(table.to_pylist(), 1)
    except pyarrow.lib.ArrowException as error:
        raise DataError(f"{path.name} is not an Arrow file: {error}") from error


READERS: Mapping[str, Callable[[Path], Iterator[tuple[int, Any]]]] = {
    ".jsonl": _read_lines,
    ".ndjson": _read_lines,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
}


def _read_folder(path: Path, source: Source) -> FileRows:
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        return _read_saved(path, source)
    files = [file for file in sorted(path.rglob("*")) if file.suffix in READERS and file.is_file()]
    of_split = [file for file in files if _split_of(file, path) == source.split]
    if not of_split and source.split == "train":
        of_split = [file for file in files if _split_of(file, path) is None]
    if not of_split:
        raise DataError(
            f"{source.path} holds no data file of split {source.split}: "
            f"{', '.join(str(file.relative_to(path)) for file in files[:5]) or 'no data file at all'}"
        )
    return _join(_read_file(file, f"{source.path}/{file.relative_to(path)}") for file in of_split)


def _split_of(file: Path, root: Path) -> str | None:
    """The split that a file's name or folder gives: `train-00000-of-00002.parquet`, `test/a.jsonl`."""
    words = [
        word for part in file.relative_to(root).with_suffix("").parts for word in part.lower().split("-")
    ]
    words = [word for text in words for word in text.replace(".", "_").split("_")]
    aliases = {
        "train": "train",
        "test": "test",
        "validation": "validation",
        "valid": "validation",
        "dev": "validation",
    }
    return next((aliases[word] for word in words if word in aliases), None)


def _join(parts: Iterable[FileRows]) -> FileRows:
    rows: list[FileRow] = []
    bad: list[BadRow] = []
    offset = 0
    for part in parts:
        last = max([number for number, _ in part.rows] + [row.row for row in part.bad], default=0)
        rows += [(offset + number, row) for number, row in part.rows]
        bad += [BadRow(offset + row.row, row.reason) for row in part.bad]
        offset += last
    return FileRows(tuple(rows), tuple(bad))


def _read_saved(path: Path, source: Source) -> FileRows:
    from datasets import DatasetDict, load_from_disk

    saved = load_from_disk(str(path))
    if isinstance(saved, DatasetDict):
        if source.split not in saved:
            raise DataError(f"{source.path} has no split {source.split}; it has {', '.join(saved)}")
        saved = saved[source.split]
    return FileRows(tuple(enumerate(saved.to_list(), 1)), ())


def _read_hub(source: Source) -> FileRows:
    from datasets import load_dataset

    try:
        rows = load_dataset(source.path, source.name, split=source.split, revision=source.revision)
    except Exception as error:  # a build boundary: the hub's client raises errors of a dozen families
        raise DataError(
            f"{source.path} is neither a file or folder here nor a hub data set that can be reached: "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from error
    return FileRows(tuple(enumerate(rows.to_list(), 1)), ())
