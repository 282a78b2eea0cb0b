"""Digests of model folders: what a model is, whatever its folder is called."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

NOT_THE_MODEL = ("README.md", "training_args.bin")
"""Files of a model folder that no model depends on."""


def digest_model(folder: Path) -> str:
    """SHA-256 over the names and contents of a model folder's files: weights, configuration, tokenizer."""
    digest = hashlib.sha256()
    for file in sorted(one for one in folder.rglob("*") if one.is_file() and one.name not in NOT_THE_MODEL):
        content = _digest_settings(file) if file.name == "adapter_config.json" else digest_file(file)
        digest.update(f"{file.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_settings(path: Path) -> str:
    """SHA-256 of PEFT's settings with lists in order: it writes sets, in another order in every process."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return digest_file(path)
    ordered = {
        key: sorted(value, key=str) if isinstance(value, list) else value for key, value in settings.items()
    }
    return hashlib.sha256(json.dumps(ordered, sort_keys=True).encode()).hexdigest()
