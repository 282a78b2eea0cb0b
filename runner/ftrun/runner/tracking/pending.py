"""What a run left unsent in its folder: told in one sentence, and sent later."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from ftrun.runner.tracking.delivered import DELIVERED_LOCK, Delivered, Record, find_parent, is_complete
from ftrun.runner.tracking.delivery import connect, deliver, describe_error, quiet_retries
from ftrun.runner.tracking.ledger import (
    LEDGER_FILE,
    LOCK_FILE,
    Ledger,
    LedgerFile,
    abandon_ledger,
    has_hidden_part,
    read_ledger,
)
from ftrun.runner.tracking.lock import hold_lock, release_lock, take_lock
from ftrun.runner.tracking.secrets import redact_text
from ftrun.runner.tracking.store import describe_place, resolve_uri
from ftrun.schemas.errors import TrackingError

COURIER_SECONDS = 60.0  # a courier that was told to stop still ends what it is sending: 20 s for each attempt


def send_pending(folder: Path, uri: str | None = None) -> str:
    """Send what a run left behind in its folder; returns one sentence that says where the run is now.

    A run whose process died without a status becomes KILLED, at the time of its last metric. `uri` sends the
    whole record to another store, or brings the credentials that `tracking.json` does not keep.
    Raises TrackingError when there is no record, the run is still going, or the store cannot be reached.
    """
    if not folder.is_dir():
        raise TrackingError(f"{folder} is not a run folder.")
    uri = None if uri is None else resolve_uri(uri, folder)
    lock = take_lock(folder / LOCK_FILE)
    if lock is None:
        raise TrackingError(
            f"The run in {folder} is still going: it sends its record itself. Try again after it."
        )
    try:
        ledger = _reopen(folder, uri)
        target = uri or ledger.uri
        with hold_lock(folder / DELIVERED_LOCK, COURIER_SECONDS):
            record = Record(folder, ledger)
            try:
                with quiet_retries():
                    deliver(connect(target), record, lambda: False)
            except Exception as error:  # whatever the store, its driver or the network raises
                raise TrackingError(
                    f"{redact_text(target)} did not take the record: {describe_error(error)}"
                ) from error
            record.change(problem="")
    finally:
        release_lock(lock)
    return describe_outcome(folder, ledger, record.delivered, "")


def describe_outcome(folder: Path, ledger: Ledger, delivered: Delivered, problem: str) -> str:
    """One sentence for the user: where the run is, or what is missing and how to send it."""
    if not is_complete(folder, ledger, delivered):
        if not problem and find_parent(folder, ledger) == "":
            problem = f"nor the run that it is a stage of: sync {(folder / ledger.parent).resolve()} first"
        cause = f" ({problem})" if problem else ""
        return (
            f"MLflow at {ledger.uri} does not have the whole record yet{cause}; "
            f"it is complete in {folder}, and `ftrun sync {shlex.quote(str(folder))}` sends the rest."
        )
    place = describe_place(ledger.uri, delivered.experiment_id, delivered.run_id)
    told = (*ledger.notes, *delivered.refused)
    refused = f"; MLflow refused: {'; '.join(told)}" if told else ""
    return f"The record is in MLflow: {place}{refused}"


def _reopen(folder: Path, uri: str | None) -> Ledger:
    """The ledger, meant for `uri` from now on if that is given, and of a run that has ended."""
    ledger = read_ledger(folder)
    if ledger is None:
        raise TrackingError(f"{folder} holds no {LEDGER_FILE}, so it is not the folder of a tracked run.")
    if uri is None and has_hidden_part(ledger.uri):
        raise TrackingError(
            f"The credentials of {ledger.uri} are not kept in {folder}: give the whole URI again."
        )
    if uri is not None:
        ledger = replace(ledger, uri=redact_text(uri))
    if ledger.status == "RUNNING":
        ledger = abandon_ledger(folder, ledger)
    return LedgerFile(folder, ledger).now
