"""The ledger of a run: what MLflow shall hold, and how much of it MLflow already holds.

It is `tracking.json` in the run folder, rewritten whole at each change, so that another process can finish
the work after a crash. The metrics themselves are not in it: the journals are, by how far they were sent.
"""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ftrun.runner.tracking.journal import METRICS_FILE, now_ms
from ftrun.runner.tracking.params import flatten_params
from ftrun.runner.tracking.secrets import SECRET, redact, redact_text
from ftrun.schemas.errors import TrackingError

LEDGER_FILE = "tracking.json"
LOCK_FILE = "tracking.lock"
SYSTEM_FILE = "system.jsonl"
JOURNALS = (METRICS_FILE, SYSTEM_FILE)
SCHEMA = 1
MAX_REFUSED = 20

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class TrackedData:
    """One data file that the run reads: `digest` is its SHA-256 in hex, `rows` how many it has."""

    name: str
    source: str
    digest: str
    rows: int
    context: Literal["training", "eval"]


@dataclass(frozen=True)
class Upload:
    """A file or folder to upload under the artifact folder `under`; `version` grows when it changed."""

    path: str
    under: str
    version: int = 1
    sent: bool = False


@dataclass(frozen=True)
class Ledger:
    """Above the line what shall be, below it what is. Times in milliseconds since the epoch.

    `key` finds the run again when the answer to its creation was lost. `uri` is without credentials.
    """

    uri: str
    experiment: str
    name: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    datasets: tuple[TrackedData, ...]
    uploads: tuple[Upload, ...] = ()
    status: Status = "RUNNING"
    start_time: int = field(default_factory=now_ms)
    end_time: int = 0
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    # -------------------------------------------------------------------------------------------------
    experiment_id: str = ""
    run_id: str = ""
    params_sent: bool = False
    datasets_sent: bool = False
    tags_sent: Mapping[str, str] = field(default_factory=dict)
    status_sent: Status = "RUNNING"
    journals_sent: Mapping[str, int] = field(default_factory=dict)  # bytes
    refused: tuple[str, ...] = ()


class LedgerFile:
    """The ledger in a run folder, shared by the training thread and the delivering one."""

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        self.folder = folder
        self._ledger = ledger
        self._lock = threading.Lock()
        self._closed = False
        self.change()

    @property
    def now(self) -> Ledger:
        return self._ledger

    def change(self, edit: Callable[[Ledger], Ledger] | None = None, **fields: Any) -> None:
        """Replace `fields`, or what `edit` replaces, and write the file; without effect once closed."""
        with self._lock:
            if self._closed:
                return
            self._ledger = replace(edit(self._ledger) if edit else self._ledger, **fields)
            write_ledger(self.folder, self._ledger)

    def close(self) -> None:
        """Let no late thread write over what another process may have changed since."""
        with self._lock:
            self._closed = True


def add_upload(ledger: Ledger, path: str, under: str) -> Ledger:
    """The ledger with one more upload; the same path again means that its content changed."""
    before = [upload for upload in ledger.uploads if (upload.path, upload.under) == (path, under)]
    others = tuple(upload for upload in ledger.uploads if upload not in before)
    version = 1 + max((upload.version for upload in before), default=0)
    return replace(ledger, uploads=(*others, Upload(path, under, version)))


def add_refusal(ledger: Ledger, reason: str) -> Ledger:
    """The ledger with one more thing that the store will never take; the first twenty are kept."""
    if reason in ledger.refused or len(ledger.refused) >= MAX_REFUSED:
        return ledger
    return replace(ledger, refused=(*ledger.refused, reason))


def is_complete(folder: Path, ledger: Ledger) -> bool:
    """Whether MLflow holds everything, the journals to their last byte included."""
    return (
        bool(ledger.run_id)
        and ledger.params_sent
        and ledger.datasets_sent
        and ledger.tags == ledger.tags_sent
        and ledger.status == ledger.status_sent
        and all(upload.sent for upload in ledger.uploads)
        and all(ledger.journals_sent.get(file, 0) >= file_size(folder / file) for file in JOURNALS)
    )


def new_ledger(
    uri: str,
    experiment: str,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    datasets: Sequence[TrackedData],
) -> Ledger:
    """A ledger of which nothing is sent; secrets are already out of it."""
    return Ledger(
        uri=redact_text(uri),
        experiment=experiment,
        name=name,
        params=flatten_params(params),
        tags=redact_tags(tags),
        datasets=tuple(replace(data, source=redact_text(data.source)) for data in datasets),
    )


def continue_ledger(before: Ledger, after: Ledger) -> Ledger:
    """The ledger of a resumed run: the same MLflow run goes on.

    MLflow never changes a parameter: where `after` says otherwise the first value stays, and that is told.
    """
    ledger = replace(
        before,
        params={**after.params, **before.params},
        tags={**before.tags, **after.tags},
        datasets=tuple(dict.fromkeys((*before.datasets, *after.datasets))),
        status="RUNNING",
        params_sent=False,
        datasets_sent=False,
    )
    for key, value in after.params.items():
        if before.params.get(key, value) != value:
            reason = f"parameter {key} stays {before.params[key]}: MLflow cannot change it to {value}"
            ledger = add_refusal(ledger, reason)
    return ledger


def forget_sent(ledger: Ledger, uri: str) -> Ledger:
    """The same record for another store, which holds nothing of it yet."""
    return replace(
        ledger,
        uri=redact_text(uri),
        uploads=tuple(replace(upload, sent=False) for upload in ledger.uploads),
        experiment_id="",
        run_id="",
        params_sent=False,
        datasets_sent=False,
        tags_sent={},
        status_sent="RUNNING",
        journals_sent={},
        refused=(),
    )


def redact_tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: redact(key, str(value)) for key, value in tags.items()}


def has_hidden_part(uri: str) -> bool:
    """Whether credentials were taken out of `uri`, so that it cannot be used as it stands."""
    return SECRET in uri


def read_ledger(folder: Path) -> Ledger | None:
    """The ledger of a run folder, None when the folder has none.

    Raises TrackingError when the file is from another version or damaged.
    """
    path = folder / LEDGER_FILE
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document.pop("schema") != SCHEMA:
            raise ValueError("another schema")
        document["datasets"] = tuple(TrackedData(**item) for item in document["datasets"])
        document["uploads"] = tuple(Upload(**item) for item in document["uploads"])
        document["refused"] = tuple(document["refused"])
        return Ledger(**document)
    except (ValueError, KeyError, TypeError) as error:
        raise TrackingError(
            f"{path} cannot be read ({error}). Move it away: the metrics are safe in {METRICS_FILE}."
        ) from error


def write_ledger(folder: Path, ledger: Ledger) -> None:
    """Write the file beside its place and move it there: a reader never sees half of it."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f"{LEDGER_FILE}.{os.getpid()}.tmp"
    text = json.dumps({"schema": SCHEMA, **asdict(ledger)}, indent=1, ensure_ascii=False)
    draft.write_text(text, encoding="utf-8")
    draft.replace(folder / LEDGER_FILE)


def place_in(folder: Path, path: Path) -> str:
    """`path` as the ledger keeps it: relative to the run folder if inside, so that the folder can move."""
    absolute = path.absolute()
    return (
        absolute.relative_to(folder.absolute()).as_posix()
        if absolute.is_relative_to(folder.absolute())
        else str(absolute)
    )


def file_size(path: Path) -> int:
    """In bytes; 0 when the file does not exist."""
    return path.stat().st_size if path.exists() else 0
