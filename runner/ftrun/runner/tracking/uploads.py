"""Files and folders, from the run folder to MLflow's artifacts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ftrun.runner.tracking.delivered import Record
from ftrun.runner.tracking.journal import METRICS_FILE
from ftrun.runner.tracking.secrets import redact_text

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_TEXT_BYTES = 32 << 20  # a larger file is no text that people wrote, and goes as it is
NEVER_UPLOADED = "training_args.bin"  # a pickle that holds hub_token in clear

Stopped = Callable[[], bool]


def send_files(client: MlflowClient, record: Record, stopped: Stopped) -> None:
    """Upload the files that are not sent; one that is gone is noted and not tried again."""
    for upload in record.ledger.uploads:
        path = record.folder / upload.path
        if upload in record.delivered.uploads or path.is_dir():
            continue
        if stopped():
            return
        if path.exists():
            _send_file(client, record.delivered.run_id, path, upload.under)
        else:
            record.refuse(f"{path} is not there any more")
        record.add_upload(upload)


def send_folders(client: MlflowClient, record: Record, stopped: Stopped) -> None:
    """Upload the folders that are not sent, byte for byte: a changed vocabulary is another model."""
    for upload in record.ledger.uploads:
        folder = record.folder / upload.path
        if upload in record.delivered.uploads or not folder.is_dir():
            continue
        for path in sorted(folder.rglob("*")):
            if stopped():
                return
            if path.is_file() and path.name != NEVER_UPLOADED:
                place = (Path(upload.under) / path.relative_to(folder).parent).as_posix()
                client.log_artifact(record.delivered.run_id, str(path), place)
        record.add_upload(upload)


def _send_file(client: MlflowClient, run_id: str, path: Path, under: str) -> None:
    """Upload one file; secrets in a text are replaced in the copy that leaves."""
    text = None if path.name == METRICS_FILE else _read_text(path)
    if text is None or redact_text(text) == text:
        client.log_artifact(run_id, str(path), under or None)
        return
    with tempfile.TemporaryDirectory() as draft:
        copy = Path(draft) / path.name
        copy.write_bytes(redact_text(text).encode())
        client.log_artifact(run_id, str(copy), under or None)


def _read_text(path: Path) -> str | None:
    """The file as text, None when it is none."""
    if path.stat().st_size > MAX_TEXT_BYTES:
        return None
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        return None
