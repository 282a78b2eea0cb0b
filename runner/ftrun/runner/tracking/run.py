"""A tracked run, as training sees it: start, log, finish. None of them waits for MLflow, but `finish`.

`log` writes to the journal in the run folder. A background thread imports mlflow, creates the run and
follows the journal; a server that is slow, down or never there costs training nothing, and what it did not
take is sent later by `ftrun.runner.tracking.pending.send_pending`.
"""

from __future__ import annotations

import getpass
import os
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from ftrun.runner.tracking.delivery import connect, deliver, describe_error, quiet_retries
from ftrun.runner.tracking.journal import Journal, now_ms
from ftrun.runner.tracking.ledger import (
    LOCK_FILE,
    SYSTEM_FILE,
    LedgerFile,
    TrackedData,
    add_upload,
    continue_ledger,
    is_complete,
    new_ledger,
    place_in,
    read_ledger,
    redact_tags,
)
from ftrun.runner.tracking.lock import release_lock, take_lock
from ftrun.runner.tracking.pending import describe_outcome
from ftrun.runner.tracking.secrets import redact_text
from ftrun.runner.tracking.store import describe_place
from ftrun.runner.tracking.system import Sampler
from ftrun.runner.tracking.uploads import NEVER_UPLOADED
from ftrun.schemas.errors import TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

ARTIFACTS = "ftrun"
SEND_SECONDS = 1.0
SEND_ENTRIES = 100
FIRST_PAUSE = 1.0  # after a failure, in seconds, doubling
LONGEST_PAUSE = 60.0
HEARTBEAT_MS = 60_000
FIRST_SIGNAL_CODE = 128  # a process that a signal ends exits with 128 + its number


class TrackedRun:
    """One run. A `with` block ends it: FINISHED, FAILED on an exception, KILLED on Ctrl-C or a signal."""

    def __init__(self, uri: str, record: LedgerFile, lock: int, sample_seconds: float | None) -> None:
        self._uri = uri
        self._record = record
        self._lock = lock
        self._journal = Journal(record.folder)
        self._sampler = None
        if sample_seconds is not None:
            self._sampler = Sampler(Journal(record.folder, SYSTEM_FILE), sample_seconds)
            self._sampler.start()
        self._unsent = 0
        self._beaten = now_ms()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._stopped = threading.Event()
        self._problem = ""
        self._outcome = ""
        self._thread = threading.Thread(target=self._keep_delivering, name="ftrun-tracking", daemon=True)
        self._thread.start()

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
        sample_seconds: float | None = 10.0,
    ) -> TrackedRun:
        """Begin a run, or go on with the one that `folder` already holds for this store and experiment.

        `params` may be nested; `artifacts` are uploaded under `ftrun/`; `sample_seconds` is the pause between
        system metrics, None for none. Start it once transformers is imported: two threads that import large
        packages at the same time can get in each other's way.
        Raises TrackingError when another process is writing to `folder`.
        """
        lock = take_lock(folder / LOCK_FILE)
        if lock is None:
            raise TrackingError(
                f"Another process is writing the run in {folder}. Wait for it or choose another name."
            )
        try:
            ledger = new_ledger(uri, experiment, name, params, {**_describe_process(), **tags}, datasets)
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
        return self._record.now.run_id

    @property
    def problem(self) -> str:
        """Why the last attempt to reach the store failed; empty when it did not."""
        return self._problem

    @property
    def outcome(self) -> str:
        """What `finish` returned; empty before."""
        return self._outcome

    def describe(self) -> str:
        """The command or address that shows the run."""
        ledger = self._record.now
        return describe_place(ledger.uri, ledger.experiment_id, ledger.run_id)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of one step; returns once they are in the journal."""
        self._journal.append(step, metrics)
        self._unsent += 1
        if self._unsent >= SEND_ENTRIES:
            self._unsent = 0
            self._wake.set()

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

    def log_folder(self, path: Path, name: str) -> None:
        """Upload a folder as `<name>/`, after all else, byte for byte and without `training_args.bin`."""
        if not path.is_dir():
            raise TrackingError(f"{path} is not a folder.")
        self._record.change(lambda ledger: add_upload(ledger, place_in(self._record.folder, path), name))

    def finish(self, status: Literal["FINISHED", "FAILED", "KILLED"], wait_seconds: float = 30.0) -> str:
        """End the run and wait for the store, at most `wait_seconds`; returns one sentence for the user.

        What the store has not taken by then stays in the run folder. A second call changes nothing.
        """
        if self._outcome:
            return self._outcome
        if self._sampler is not None:
            self._sampler.stop()
        self._journal.close()
        self.log_artifact(self._journal.path)
        self._record.change(status=status, end_time=now_ms())
        self._closing.set()
        self._wake.set()
        try:
            self._thread.join(wait_seconds)
        finally:  # also when Ctrl-C cuts the waiting short
            self._stopped.set()
            self._record.close()
            release_lock(self._lock)
        self._outcome = describe_outcome(self._record.folder, self._record.now, self._problem)
        return self._outcome

    @property
    def pending(self) -> bool:
        """Whether the store lacks a part of the record."""
        return not is_complete(self._record.folder, self._record.now)

    def __enter__(self) -> TrackedRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._outcome:
            return
        if error is not None:
            self.set_tags({"ftrun.failure": f"{type(error).__name__}: {error}".splitlines()[0][:300]})
        self.finish(judge_end(error))

    def _keep_delivering(self) -> None:
        """The background thread: follow the journal until `finish`, whatever happens to the store."""
        client: MlflowClient | None = None
        pause = FIRST_PAUSE
        with quiet_retries():
            while not self._stopped.is_set():
                closing = self._closing.is_set()  # read first: the pass below then sends all there will be
                try:
                    client = client or connect(self._uri)
                    deliver(client, self._record, self._stopped.is_set)
                    self._beat(client)
                except Exception as error:  # whatever the store, its driver or the network raises
                    self._problem = describe_error(error)
                    (self._stopped if closing else self._closing).wait(FIRST_PAUSE if closing else pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
                    continue
                self._problem = ""
                pause = FIRST_PAUSE
                if closing:
                    return
                self._wake.wait(SEND_SECONDS)
                self._wake.clear()

    def _beat(self, client: MlflowClient) -> None:
        """A sign of life once a minute: nothing can set a status after SIGKILL."""
        if now_ms() - self._beaten >= HEARTBEAT_MS:
            client.set_tag(self.run_id, "ftrun.heartbeat", str(now_ms()))
            self._beaten = now_ms()


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
