"""Files and folders, from the run folder to MLflow's artifacts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ftrun.runner.tracking.journal import METRICS_FILE
from ftrun.runner.tracking.ledger import Ledger, LedgerFile, Upload, add_refusal
from ftrun.runner.tracking.secrets import redact_text

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_TEXT_BYTES = 32 << 20  # a larger file is no text that people wrote, and goes as it is
NEVER_UPLOADED = "training_args.bin"  # a pickle that holds hub_token in clear

Stopped = Callable[[], bool]


def send_files(client: MlflowClient, record: LedgerFile, stopped: Stopped) -> None:
    """Upload the files that are not sent; one that is gone is noted and not tried again."""
    for upload in record.now.uploads:
        path = record.folder / upload.path
        if upload.sent or path.is_dir():
            continue
        if stopped():
            return
        if path.exists():
            _send_file(client, record.now.run_id, path, upload.under)
        else:
            record.change(partial(add_refusal, reason=f"{path} is not there any more"))
        record.change(partial(_mark_sent, done=upload))


def send_folders(client: MlflowClient, record: LedgerFile, stopped: Stopped) -> None:
    """Upload the folders that are not sent, byte for byte: a changed vocabulary is another model."""
    for upload in record.now.uploads:
        folder = record.folder / upload.path
        if upload.sent or not folder.is_dir():
            continue
        for path in sorted(folder.rglob("*")):
            if stopped():
                return
            if path.is_file() and path.name != NEVER_UPLOADED:
                place = (Path(upload.under) / path.relative_to(folder).parent).as_posix()
                client.log_artifact(record.now.run_id, str(path), place)
        record.change(partial(_mark_sent, done=upload))


def _mark_sent(ledger: Ledger, done: Upload) -> Ledger:
    """An upload that changed while it was being sent is no longer equal to `done` and stays unsent."""
    uploads = tuple(replace(upload, sent=True) if upload == done else upload for upload in ledger.uploads)
    return replace(ledger, uploads=uploads)


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
