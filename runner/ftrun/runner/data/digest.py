"""Digests of what a run reads: of the files of a source, and of the tokens that they become."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ftrun.checks.rows import Rows, SourceRows
from ftrun.runner.record.digests import describe_source


def digest_source(source: SourceRows, folder: Path) -> str:
    """SHA-256 of a source's file; of the names and digests of a folder's files; of the rows of a hub data set."""
    path = folder / Path(source.label).expanduser()
    digest = hashlib.sha256()
    if path.exists():
        files = describe_source(path)
        if path.is_file():
            return str(files[path.name]["sha256"])
        for name, facts in files.items():
            digest.update(f"{name} {facts['sha256']}\n".encode())
    else:
        for example in source.examples:
            digest.update(json.dumps(example, sort_keys=True, ensure_ascii=False, default=str).encode())
    return digest.hexdigest()


def digest_rows(rows: Rows) -> str:
    """SHA-256 over ids, labels and lengths in the order of the data set.

    It covers tokenizer, chat template, masking and truncation at once.
    """
    digest = hashlib.sha256()
    for name in ("ids", "labels"):
        for _, block in rows.blocks():
            digest.update(getattr(block, name).data)
    digest.update(rows.starts.data)
    return digest.hexdigest()
