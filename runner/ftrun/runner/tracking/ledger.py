"""The ledger of a run: what MLflow shall hold. What it holds already is told by `delivered`.

It is `tracking.json` in the run folder, rewritten whole at each change by the holder of `tracking.lock`: the
process that trains, or one that ends the run of a process that disappeared. The metrics themselves are not
in it; they are in the journals.
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

from ftrun.runner.tracking.journal import METRICS_FILE, now_ms, read_journal
from ftrun.runner.tracking.params import flatten_params
from ftrun.runner.tracking.secrets import SECRET, redact, redact_text
from ftrun.schemas.errors import TrackingError

LEDGER_FILE = "tracking.json"
LOCK_FILE = "tracking.lock"
SYSTEM_FILE = "system.jsonl"
JOURNALS = (METRICS_FILE, SYSTEM_FILE)
SCHEMA = 2
ARTIFACTS = "ftrun"  # the folder of what describes a run
FAILURE_TAG = "ftrun.failure"
DISAPPEARED = "the process disappeared"

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


@dataclass(frozen=True)
class Ledger:
    """What MLflow shall hold. Times in milliseconds since the epoch.

    `uri` is without credentials. `parent` is the run folder of the pipeline that this run is a stage of, as
    seen from this run's folder, empty for none. `key` finds the run again when the answer to its creation
    was lost. `session` is new each time that the run is started or resumed.
    """

    uri: str
    experiment: str
    name: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    datasets: tuple[TrackedData, ...]
    parent: str = ""
    uploads: tuple[Upload, ...] = ()
    status: Status = "RUNNING"
    start_time: int = field(default_factory=now_ms)
    end_time: int = 0
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    session: str = field(default_factory=lambda: uuid.uuid4().hex)
    notes: tuple[str, ...] = ()  # what MLflow cannot show as it is


class LedgerFile:
    """The ledger in the run folder of a process that holds `tracking.lock`."""

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        self.folder = folder
        self.now = ledger
        self._lock = threading.Lock()
        self.change()

    def change(self, edit: Callable[[Ledger], Ledger] | None = None, **fields: Any) -> None:
        """Replace `fields`, or what `edit` replaces, and write the file."""
        with self._lock:
            self.now = replace(edit(self.now) if edit else self.now, **fields)
            write_document(self.folder / LEDGER_FILE, {"schema": SCHEMA, **asdict(self.now)})


def new_ledger(
    uri: str,
    experiment: str,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    datasets: Sequence[TrackedData],
    parent: str = "",
) -> Ledger:
    """The ledger of a run that begins; secrets are already out of it."""
    return Ledger(
        uri=redact_text(uri),
        experiment=experiment,
        name=name,
        params=flatten_params(params),
        tags=redact_tags(tags),
        datasets=tuple(replace(data, source=redact_text(data.source)) for data in datasets),
        parent=parent,
    )


def continue_ledger(before: Ledger, after: Ledger) -> Ledger:
    """The ledger of a resumed run: the same MLflow run goes on, and how it had ended is forgotten.

    MLflow never changes a parameter: where `after` says otherwise the first value stays, and that is told.
    """
    changed = [key for key, value in after.params.items() if before.params.get(key, value) != value]
    notes = [
        f"parameter {key} stays {before.params[key]}: MLflow cannot change it to {after.params[key]}"
        for key in changed
    ]
    kept = {key: value for key, value in before.tags.items() if key != FAILURE_TAG}
    return replace(
        before,
        params={**after.params, **before.params},
        tags={**kept, **after.tags},
        datasets=tuple(dict.fromkeys((*before.datasets, *after.datasets))),
        parent=after.parent,
        status="RUNNING",
        session=after.session,
        notes=tuple(dict.fromkeys((*before.notes, *notes))),
    )


def abandon_ledger(folder: Path, ledger: Ledger) -> Ledger:
    """The ledger of a run whose process disappeared: KILLED, at the time of its last metric."""
    entries = read_journal(folder / METRICS_FILE)
    end = entries[-1].time if entries else now_ms()
    uploads = add_upload(ledger, METRICS_FILE, ARTIFACTS).uploads if entries else ledger.uploads
    tags = {**ledger.tags, FAILURE_TAG: DISAPPEARED}
    return replace(ledger, status="KILLED", end_time=end, tags=tags, uploads=uploads)


def add_upload(ledger: Ledger, path: str, under: str) -> Ledger:
    """The ledger with one more upload; the same path again means that its content changed."""
    before = [upload for upload in ledger.uploads if (upload.path, upload.under) == (path, under)]
    others = tuple(upload for upload in ledger.uploads if upload not in before)
    version = 1 + max((upload.version for upload in before), default=0)
    return replace(ledger, uploads=(*others, Upload(path, under, version)))


def redact_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags without secrets, each judged by its key."""
    return {key: redact(key, str(value)) for key, value in tags.items()}


def has_hidden_part(uri: str) -> bool:
    """Whether credentials were taken out of `uri`, so that it cannot be used as it stands."""
    return SECRET in uri


def read_ledger(folder: Path) -> Ledger | None:
    """The ledger of a run folder, None when the folder has none.

    Raises TrackingError when the file is from another version or damaged.
    """
    path = folder / LEDGER_FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document.pop("schema") != SCHEMA:
            raise ValueError("another schema")
        document["datasets"] = tuple(TrackedData(**item) for item in document["datasets"])
        document["uploads"] = tuple(Upload(**item) for item in document["uploads"])
        document["notes"] = tuple(document["notes"])
        return Ledger(**document)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise TrackingError(
            f"{path} cannot be read ({error}). Move it away: the metrics are safe in {METRICS_FILE}."
        ) from error


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON file beside its place and move it there: a reader never sees half of it."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    draft.write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8")
    draft.replace(path)


def place_beside(folder: Path, other: Path) -> str:
    """The run folder `other` as the ledger in `folder` keeps it: both may move together."""
    return Path(os.path.relpath(other.resolve(), folder.resolve())).as_posix()


def place_in(folder: Path, path: Path) -> str:
    """`path` as the ledger keeps it: relative to the run folder if inside, so that the folder can move."""
    absolute = path.absolute()
    return (
        absolute.relative_to(folder.absolute()).as_posix()
        if absolute.is_relative_to(folder.absolute())
        else str(absolute)
    )
