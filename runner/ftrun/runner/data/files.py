"""Reading a source: a file, a folder of files or a hub data set becomes plain rows, one after the other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ftrun.checks.rows import BadRow, SourceHead
from ftrun.runner.data.readers import READERS, REFUSED, TOGETHER, Numbered, read_columns, read_file
from ftrun.schemas.errors import DataError, first_line
from ftrun.schemas.sections import Source

if TYPE_CHECKING:
    from datasets import Dataset

Place = Literal["file", "folder", "missing", "hub"]

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")

SPLITS: Mapping[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""The words by which `datasets` tells splits, each with its split."""


def read_source(source: Source, folder: Path) -> Iterator[Numbered]:
    """The rows of a source as they stand in its files, each with its number, while they are read.

    Numbers count from 1; in a folder they count on from file to file, in the order of their names. Paths are
    relative to `folder`. Raises DataError, which names the source, where nothing can be read (on).
    """
    path = _resolve(source, folder)
    place = _look(path, source)
    if place == "hub":
        return _read_hub(source)
    if place == "missing":
        raise DataError(f"{source.path} is not there (looked for {path})")
    for key in ("name", "revision"):
        if getattr(source, key) is not None:
            raise DataError(f"{source.path} is a {place}, and `{key}` is for hub data sets: remove it")
    if place == "folder":
        return _read_folder(path, source)
    if source.split != "train":
        raise DataError(f"{source.path} is one file, which has no split {source.split}: remove `split`")
    return _read_files([(path, source.path)])


def read_head(source: Source, key: str, folder: Path) -> SourceHead:
    """A first look at a source: whether it is there, and the columns of its first row. Needs no pyarrow."""
    try:
        path = _resolve(source, folder)
        place = _look(path, source)
    except DataError as error:
        return SourceHead(source.path, key, "missing", source.path, problem=str(error))
    if place != "file":
        return SourceHead(source.path, key, place, str(path))
    try:
        return SourceHead(source.path, key, "file", str(path), columns=read_columns(path, source.path))
    except DataError as error:
        return SourceHead(source.path, key, "file", str(path), problem=str(error))


def _resolve(source: Source, folder: Path) -> Path:
    try:
        return folder / Path(source.path).expanduser()
    except RuntimeError as error:
        raise DataError(f"{source.path} names a home folder that is not there") from error


def _look(path: Path, source: Source) -> Place:
    try:
        if path.is_file():
            return "file"
        if path.is_dir():
            return "folder"
    except OSError as error:
        raise DataError(f"{source.path} cannot be looked at: {error.strerror or error}") from error
    if Path(source.path).suffix.lower() in (*READERS, *REFUSED) or not HUB_ID.fullmatch(source.path):
        return "missing"
    if Path(source.path).exists():
        # `datasets` would take it for what is meant, and read other rows from another current folder.
        raise DataError(
            f"{source.path} is in the current folder, but paths are relative to the recipe: {path}"
        )
    return "hub"


def _read_files(files: Iterable[tuple[Path, str]]) -> Iterator[Numbered]:
    """The rows of files, each with what to call it."""
    before = 0
    for path, label in files:
        last = 0
        for last, row in read_file(path, label):
            whole = row if isinstance(row, dict) else BadRow(before + last, row.reason)
            yield before + last, whole
        before += last


def _read_folder(path: Path, source: Source) -> Iterator[Numbered]:
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        return _read_saved(path, source)
    names = [file.relative_to(path) for file in sorted(path.rglob("*")) if file.suffix.lower() in READERS]
    names = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    names = [name for name in names if (path / name).is_file()]
    wanted = SPLITS.get(source.split, source.split)
    of_split = [name for name in names if _split_of(name, wanted) == wanted]
    if not of_split and wanted == "train":
        of_split = [name for name in names if _split_of(name, wanted) is None]
    if not of_split:
        there = ", ".join(str(name) for name in names[:5]) or "no file that ftrun reads"
        raise DataError(f"{source.path} holds no data file of split {source.split}: there is {there}")
    return _read_files((path / name, f"{source.path}/{name.as_posix()}") for name in of_split)


def _split_of(name: Path, wanted: str) -> str | None:
    """The split that a file's name or folder gives: `train-00000-of-00002.parquet`, `test/a.jsonl`."""
    words = re.split(r"[-_. ]", "-".join(name.with_suffix("").parts).lower())
    return wanted if wanted in words else next((SPLITS[word] for word in words if word in SPLITS), None)


def _read_saved(path: Path, source: Source) -> Iterator[Numbered]:
    """A folder that `save_to_disk` wrote."""
    from datasets import DatasetDict, load_from_disk

    try:
        saved = load_from_disk(str(path))
    except Exception as error:  # a build boundary: a damaged folder fails in as many ways as it has files
        raise DataError(f"{source.path} is not whole: {first_line(error)}") from error
    if isinstance(saved, DatasetDict):
        if source.split not in saved:
            raise DataError(f"{source.path} has no split {source.split}; it has {', '.join(saved)}")
        saved = saved[source.split]
    elif source.split != "train":
        raise DataError(f"{source.path} is one data set, which has no split {source.split}: remove `split`")
    try:
        saved.data.validate(full=True)  # as for an Arrow file: places beyond its end would end the process
        yield from _read_dataset(saved)
    except Exception as error:  # the same boundary: what is damaged may show only where rows are read
        raise DataError(f"{source.path} is not whole: {first_line(error)}") from error


def _read_dataset(rows: Dataset) -> Iterator[Numbered]:
    for first in range(0, len(rows), TOGETHER):
        part = rows.select(range(first, min(first + TOGETHER, len(rows))))
        yield from enumerate(part.to_list(), first + 1)


def _read_hub(source: Source) -> Iterator[Numbered]:
    from datasets import load_dataset

    try:
        rows = load_dataset(source.path, source.name, split=source.split, revision=source.revision)
    except Exception as error:  # a build boundary: the hub's client raises errors of a dozen families
        raise DataError(
            f"{source.path} is no file or folder beside the recipe, and as a hub data set it cannot be read: "
            f"{first_line(error)}"
        ) from error
    yield from _read_dataset(rows)
