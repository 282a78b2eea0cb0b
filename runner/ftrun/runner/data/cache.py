"""Tokenised rows kept between runs: a folder for each data set, named by the digest of all that its tokens come from.

Each holds one file of plain numbers for each array, and `manifest.json` with type, length and SHA-256 of each, written
last. Folders are made under another name and then renamed, so that a run sees a whole one or none.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftrun.runner.data.storage import DRAFT, rows_folder, scratch_folder
from ftrun.schemas.errors import DataError

MANIFEST = "manifest.json"
FEW = 2000
"""Rows from which on arrays go into files, and into the cache: fewer are tokenised in a fraction of a second."""

BUFFER = 1 << 20
MAPPED_FROM = 1 << 22
"""Bytes; a smaller array is read rather than mapped."""

DAY = 24 * 3600
UNUSED_DAYS = 30
"""Days after which rows that no run has read are removed, when others are written."""

Arrays = Mapping[str, NDArray[Any]]


class GrowingArray:
    """A flat array that grows at its end: in a file of a folder, or in memory where there is none."""

    def __init__(self, folder: Path | None, name: str, dtype: type[np.generic]) -> None:
        self.dtype, self.length = np.dtype(dtype), 0
        self._parts: list[NDArray[Any]] = []
        self._path = None if folder is None else folder / name
        self._file = None if self._path is None else self._path.open("wb", buffering=BUFFER)
        self._digest = hashlib.sha256()
        if self._file is not None:  # where what fills the array breaks off
            weakref.finalize(self, self._file.close)

    def append(self, values: NDArray[Any]) -> None:
        """Add values at the end."""
        values = np.ascontiguousarray(values, self.dtype).ravel()
        self.length += values.size
        if self._file is None:
            self._parts.append(values)
        else:
            self._file.write(values.data)
            self._digest.update(values.data)

    def finish(self) -> NDArray[Any]:
        """The whole array, after which nothing is added."""
        if self._file is None or self._path is None:
            return np.concatenate([np.zeros(0, self.dtype), *self._parts])
        self._file.close()
        return _open(self._path, self.dtype, self.length)

    def remove(self) -> None:
        """Remove the file, whose array stays where it is mapped."""
        if self._path is not None:
            self._path.unlink()

    @property
    def facts(self) -> dict[str, Any]:
        """What the manifest says of a file."""
        assert self._path is not None
        return {
            "file": self._path.name,
            "type": self.dtype.name,
            "length": self.length,
            "sha256": self._digest.hexdigest(),
        }


Make = Callable[[Path], dict[str, GrowingArray]]
"""Writes arrays into a folder and gives them by their names."""


def is_small(rows: int) -> bool:
    """Whether the arrays of so many rows stay in memory."""
    return rows < FEW


def make_in_memory(make: Callable[[None], dict[str, GrowingArray]]) -> Arrays:
    """The arrays that `make` gives where it has no folder to write them into."""
    return {name: one.finish() for name, one in make(None).items()}


def fill_cache(key: str, make: Make) -> None:
    """Let the cache have the arrays that `make` writes, so that other processes find them there."""
    fetch_arrays(key, make)


def fetch_arrays(key: str | None, make: Make) -> Arrays:
    """The arrays that `make` writes into a folder: those that the cache has under `key`, else new ones, which it keeps
    where it can. Without a key they belong to this process alone.

    A damaged folder is told on stderr and made anew. Raises DataError where nothing can be written.
    """
    folder = rows_folder()
    entry = None if folder is None or key is None else folder / key
    if entry is not None and entry.exists():
        try:
            return _read(entry)
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"ftrun: tokenised rows in {entry} are damaged and made anew: {error}", file=sys.stderr)
            shutil.rmtree(entry, ignore_errors=True)
    scratch = scratch_folder()
    try:
        draft = Path(tempfile.mkdtemp(prefix=DRAFT, dir=scratch))
    except OSError as error:
        raise DataError(
            f"tokenised rows cannot be written to {scratch}: {error.strerror or error}"
        ) from error
    try:
        written = make(draft)
        arrays = {name: one.finish() for name, one in written.items()}
        if entry is not None and entry.parent == scratch:
            _publish(draft, entry, written)
    except OSError as error:
        raise DataError(f"tokenised rows cannot be written to {draft}: {error.strerror or error}") from error
    finally:
        # What is mapped stays readable without its name.
        shutil.rmtree(draft, ignore_errors=True)
    return arrays


def _publish(draft: Path, entry: Path, written: Mapping[str, GrowingArray]) -> None:
    manifest = {name: one.facts for name, one in written.items()}
    (draft / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    try:
        draft.rename(entry)
    except OSError:  # another run was first, and its rows are the same
        return
    _sweep(entry.parent)


def _sweep(folder: Path) -> None:
    """Remove what no run has read for long, and what a run that was killed has left."""
    now = time.time()
    for one in folder.iterdir():
        days = 1 if one.name.startswith(DRAFT) else UNUSED_DAYS
        try:
            used = max(
                one.stat().st_mtime, (one / MANIFEST).stat().st_mtime if (one / MANIFEST).exists() else 0
            )
        except OSError:  # another run has just removed it
            continue
        if now - used > days * DAY:
            shutil.rmtree(one, ignore_errors=True)


def _read(entry: Path) -> Arrays:
    """The arrays of a folder. Raises ValueError where a file is not what was written."""
    manifest = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))
    arrays = {}
    for name, facts in manifest.items():
        path = entry / Path(facts["file"]).name
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != facts["sha256"]:
                raise ValueError(f"{path.name} is not what was written")
        arrays[name] = _open(path, np.dtype(facts["type"]), int(facts["length"]))
    os.utime(entry / MANIFEST)
    return arrays


def _open(path: Path, dtype: np.dtype[Any], length: int) -> NDArray[Any]:
    if length * dtype.itemsize < MAPPED_FROM:
        return np.fromfile(path, dtype)
    return np.memmap(path, dtype, mode="r", shape=(length,))
