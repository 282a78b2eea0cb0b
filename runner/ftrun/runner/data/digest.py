"""Digests of what a run reads: of the files of a source, and of the tokens that they become."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ftrun.checks.rows import Rows, SourceRows


def digest_source(source: SourceRows, folder: Path) -> str:
    """SHA-256 of a source's file; of the names and digests of a folder's files; of the rows of a hub data set."""
    path = folder / Path(source.label).expanduser()
    if path.is_file():
        return _digest_file(path)
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(one for one in path.rglob("*") if one.is_file()):
            digest.update(f"{file.relative_to(path).as_posix()} {_digest_file(file)}\n".encode())
    else:
        for example in source.examples:
            digest.update(json.dumps(example, sort_keys=True, ensure_ascii=False, default=str).encode())
    return digest.hexdigest()


def _digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_rows(rows: Rows) -> str:
    """SHA-256 over ids, labels and lengths in the order of the data set.

    It covers tokenizer, chat template, masking and truncation at once.
    """
    digest = hashlib.sha256()
    for array in (rows.ids, rows.labels, rows.starts):
        digest.update(array.data)
    return digest.hexdigest()
