"""A tracked run, as training sees it: start, log, finish. None of them waits for MLflow, but `finish`.

`log` writes to the journal in the run folder. A process of its own, the courier, imports mlflow, creates the
run and follows the journal; a server that is slow, down or never there costs training nothing, and what it
did not take is sent later by `ftrun.runner.tracking.pending.send_pending`.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Literal

from ftrun.runner.ranks import count_ranks
from ftrun.runner.tracking.courier import Orders
from ftrun.runner.tracking.delivered import Delivered, is_complete, read_delivered
from ftrun.runner.tracking.dispatch import Courier
from ftrun.runner.tracking.journal import Journal, now_ms
from ftrun.runner.tracking.ledger import (
    ARTIFACTS,
    FAILURE_TAG,
    LEDGER_FILE,
    LOCK_FILE,
    LedgerFile,
    TrackedData,
    add_upload,
    continue_ledger,
    new_ledger,
    place_beside,
    place_in,
    read_ledger,
    redact_tags,
)
from ftrun.runner.tracking.lock import release_lock, take_lock
from ftrun.runner.tracking.pending import describe_outcome
from ftrun.runner.tracking.secrets import redact_text
from ftrun.runner.tracking.store import describe_place
from ftrun.runner.tracking.uploads import NEVER_UPLOADED
from ftrun.schemas.errors import TrackingError

WAIT_SECONDS = 30.0
HURRIED_SECONDS = 10.0
"""How long a run of several processes waits for the store when it breaks off: torchrun kills what has not ended 30 s
after its signal, and the reason is to be told before that. The courier goes on by itself."""

LOCK_SECONDS = 1.0  # the courier of a process that disappeared may be ending its run
TABLES_TAG = "mlflow.loggedArtifacts"  # the tag by which MLflow knows which artifacts to show as tables
FIRST_SIGNAL_CODE = 128  # a process that a signal ends exits with 128 + its number


class TrackedRun:
    """One run. A `with` block ends it: FINISHED, FAILED on an exception, KILLED on Ctrl-C or a signal."""

    def __init__(self, uri: str, record: LedgerFile, lock: int, sample_seconds: float | None) -> None:
        self._record = record
        self._lock = lock
        self._journal = Journal(record.folder)
        self._courier = Courier(Orders(str(record.folder), uri, record.now.session, sample_seconds))
        self._outcome = ""

    @classmethod
    def start(
        cls,
        uri: str,
        experiment: str,
        name: str,
        folder: Path,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        datasets: Sequence[TrackedData] = (),
        artifacts: Sequence[Path] = (),
        *,
        parent: Path | None = None,
        sample_seconds: float | None = 10.0,
    ) -> TrackedRun:
        """Begin a run, or go on with the one that `folder` already holds for this store and experiment.

        `params` may be nested; `artifacts` are uploaded under `ftrun/`; `parent` is the run folder of the
        pipeline that this run is a stage of, under which MLflow then shows it; `sample_seconds` is the pause
        between system metrics, None for none.
        Raises TrackingError when another process is writing to `folder`, or `parent` is no run's folder.
        """
        if parent is not None and read_ledger(parent) is None:
            raise TrackingError(f"{parent} is not the folder of a tracked run: it holds no {LEDGER_FILE}.")
        lock = take_lock(folder / LOCK_FILE, LOCK_SECONDS)
        if lock is None:
            raise TrackingError(
                f"Another process is writing the run in {folder}. Wait for it or choose another name."
            )
        try:
            above = "" if parent is None else place_beside(folder, parent)
            tags = {**_describe_process(), **tags}
            ledger = new_ledger(uri, experiment, name, params, tags, datasets, above)
            before = read_ledger(folder)
            if before is not None and (before.uri, before.experiment) == (ledger.uri, ledger.experiment):
                ledger = continue_ledger(before, ledger)
            for path in artifacts:
                ledger = add_upload(ledger, place_in(folder, path), ARTIFACTS)
            return cls(uri, LedgerFile(folder, ledger), lock, sample_seconds)
        except BaseException:
            release_lock(lock)
            raise

    @property
    def run_id(self) -> str:
        """MLflow's id of the run, empty until the store has answered."""
        return self._delivered.run_id

    @property
    def problem(self) -> str:
        """Why the last attempt to reach the store failed; empty when it did not."""
        return self._courier.problem or self._delivered.problem

    @property
    def outcome(self) -> str:
        """What `finish` returned; empty before."""
        return self._outcome

    @property
    def pending(self) -> bool:
        """Whether the store lacks a part of the record."""
        return not is_complete(self._record.folder, self._record.now, self._delivered)

    @property
    def _delivered(self) -> Delivered:
        return read_delivered(self._record.folder, self._record.now)

    def describe(self) -> str:
        """The command or address that shows the run."""
        delivered = self._delivered
        return describe_place(delivered.uri, delivered.experiment_id, delivered.run_id)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of one step; returns once they are in the journal."""
        self._journal.append(step, metrics)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Add or change tags."""
        self._record.change(lambda ledger: replace(ledger, tags={**ledger.tags, **redact_tags(tags)}))

    def log_artifact(self, path: Path, folder: str = ARTIFACTS) -> None:
        """Upload a file; the same path again uploads its new content. It must stay until the run ends."""
        if path.name == NEVER_UPLOADED:
            raise TrackingError(f"{path} is not uploaded: it holds tokens in clear. Leave it out.")
        if not path.is_file():
            raise TrackingError(f"{path} is not a file. Use log_folder for a folder.")
        self._record.change(lambda ledger: add_upload(ledger, place_in(self._record.folder, path), folder))

    def log_text(self, text: str, name: str) -> None:
        """Upload a text without its secrets as `ftrun/<name>`; the run folder keeps it at the same place."""
        place = PurePosixPath(ARTIFACTS, name)
        path = self._record.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(redact_text(text), encoding="utf-8")
        self.log_artifact(path, place.parent.as_posix())

    def log_table(self, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        """Upload rows as `ftrun/<name>`, a JSON file that MLflow shows as a table: as `log_table` of its client."""
        columns = list(dict.fromkeys(column for row in rows for column in row))
        data = [[row.get(column) for column in columns] for row in rows]
        self.log_text(json.dumps({"columns": columns, "data": data}, ensure_ascii=False), name)
        shown = json.loads(self._record.now.tags.get(TABLES_TAG, "[]"))
        one = {"path": f"{ARTIFACTS}/{name}", "type": "table"}
        self.set_tags({TABLES_TAG: json.dumps([*(kept for kept in shown if kept != one), one])})

    def log_folder(self, path: Path, name: str) -> None:
        """Upload a folder as `<name>/`, after all else, byte for byte and without `training_args.bin`."""
        if not path.is_dir():
            raise TrackingError(f"{path} is not a folder.")
        self._record.change(lambda ledger: add_upload(ledger, place_in(self._record.folder, path), name))

    def finish(
        self, status: Literal["FINISHED", "FAILED", "KILLED"], wait_seconds: float | None = None
    ) -> str:
        """End the run and wait for the store, at most `wait_seconds`; returns one sentence for the user.

        What the store has not taken by then stays in the run folder. A second call changes nothing.
        """
        if self._outcome:
            return self._outcome
        self._journal.close()
        place = place_in(self._record.folder, self._journal.path)
        # The clock may have been set back since the start.
        end = max(now_ms(), self._record.now.start_time)
        self._record.change(lambda ledger: add_upload(ledger, place, ARTIFACTS), status=status, end_time=end)
        try:
            hurried = count_ranks() > 1 and status != "FINISHED"
            self._courier.finish(wait_seconds or (HURRIED_SECONDS if hurried else WAIT_SECONDS))
        finally:
            release_lock(self._lock)
        self._outcome = describe_outcome(self._record.folder, self._record.now, self._delivered, self.problem)
        return self._outcome

    def __enter__(self) -> TrackedRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._outcome:
            return
        try:
            if error is not None:
                self.set_tags({FAILURE_TAG: f"{type(error).__name__}: {error}".splitlines()[0][:300]})
            self.finish(judge_end(error))
        except OSError as why:  # a full disk, most likely
            folder = self._record.folder
            unsaid = f"the end of the run cannot be written into {folder} ({why}); `ftrun sync {folder}` records it"
            raise TrackingError(unsaid if error is None else f"{str(error).strip()}; and {unsaid}") from error


class SilentRun(TrackedRun):
    """The run as the processes beside the main one see it: it takes everything and records nothing."""

    def __init__(self) -> None:
        self._outcome = "recorded by the main process"

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Nothing."""

    def log_artifact(self, path: Path, folder: str = ARTIFACTS) -> None:
        """Nothing."""

    def log_text(self, text: str, name: str) -> None:
        """Nothing."""

    def log_table(self, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        """Nothing."""

    def log_folder(self, path: Path, name: str) -> None:
        """Nothing."""


def judge_end(error: BaseException | None) -> Literal["FINISHED", "FAILED", "KILLED"]:
    """The status of a run that the block was left with `error`, None for its regular end."""
    if error is None:
        return "FINISHED"
    if isinstance(error, KeyboardInterrupt):
        return "KILLED"
    by_signal = (
        isinstance(error, SystemExit) and isinstance(error.code, int) and error.code > FIRST_SIGNAL_CODE
    )
    return "KILLED" if by_signal else "FAILED"


def _describe_process() -> dict[str, str]:
    tags = {"ftrun.host": socket.gethostname(), "ftrun.pid": str(os.getpid())}
    try:
        tags["mlflow.user"] = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user id without a name
        return tags
    return tags
