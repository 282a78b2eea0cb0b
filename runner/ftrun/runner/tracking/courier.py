"""The process that brings a run's record to MLflow: `python -m ftrun.runner.tracking.courier`.

The process that trains starts it, and shares nothing with it but the files of the run folder and its stdin:

    {"uri": …}   first, the orders: not among the arguments, which everybody on the machine can read. It may be
                 started long before there are any, and imports mlflow meanwhile
    finish       the ledger is final; the courier ends once all of it is delivered
    stop         nobody waits any more; the courier ends as soon as what it is sending is sent
    (the end)    the process that trains has disappeared: the courier ends its run, within a minute

It writes nothing to the terminal. What went wrong stands in `delivered.json`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ftrun.runner.tracking.delivered import DELIVERED_LOCK, Record, is_complete
from ftrun.runner.tracking.delivery import connect, deliver, describe_error, import_mlflow
from ftrun.runner.tracking.journal import Journal, now_ms
from ftrun.runner.tracking.ledger import LOCK_FILE, SYSTEM_FILE, LedgerFile, abandon_ledger, read_ledger
from ftrun.runner.tracking.lock import release_lock, take_lock
from ftrun.runner.tracking.system import Sampler

NICENESS = 5  # training comes first
LOOK_SECONDS = 1.0  # between two looks at the run folder
FIRST_PAUSE = 1.0  # after a failure, in seconds, doubling
LONGEST_PAUSE = 60.0
HEARTBEAT = 60.0
PATIENCE = 60.0  # seconds, after the process that trains has disappeared
GRACE = 60.0  # seconds for what is being sent once nobody waits any more
FINISH, STOP = "finish", "stop"


@dataclass(frozen=True)
class Orders:
    """The run folder, and what the courier cannot read there; `sample_seconds` as in `TrackedRun.start`."""

    folder: str
    uri: str
    session: str
    sample_seconds: float | None

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"


class Trainer:
    """The process that trains, as the courier sees it."""

    def __init__(self, pipe: int) -> None:
        self._stream = open(pipe, "rb", buffering=0)  # noqa: SIM115  # open as long as the process lives
        self._parent = os.getppid()
        self._news = threading.Event()
        self._deadline = math.inf
        self._finished = False
        self._gone = False

    def read_orders(self) -> Orders | None:
        """The orders, None when the process disappeared before it gave them."""
        line = self._stream.readline()
        return Orders(**json.loads(line)) if line.endswith(b"\n") else None

    def listen(self) -> None:
        """Follow the rest of the pipe in a thread."""
        threading.Thread(target=self._keep_listening, daemon=True).start()

    def is_over(self) -> bool:
        """Whether it writes nothing any more."""
        # Data-loading workers hold copies of the pipe: it may stay open after the process is gone.
        if os.getppid() != self._parent:
            self._leave()
        return self._finished or self._gone

    def must_stop(self) -> bool:
        """Whether the courier has to end, done or not."""
        return self.is_over() and time.monotonic() >= self._deadline

    def wait(self, seconds: float) -> None:
        """Until there is news, at most `seconds`."""
        end = time.monotonic() + seconds
        was_over = self.is_over()
        while not self._news.wait(min(LOOK_SECONDS, max(0.0, end - time.monotonic()))):
            if time.monotonic() >= end or self.is_over() != was_over:
                return
        self._news.clear()

    def _keep_listening(self) -> None:
        with self._stream:
            for line in self._stream:
                self._finished = True
                if line.strip() == STOP.encode():
                    self._deadline = time.monotonic()
                self._news.set()
        self._leave()
        self._news.set()

    def _leave(self) -> None:
        if not self._gone:
            self._deadline = min(self._deadline, time.monotonic() + PATIENCE)
            self._gone = True


def main() -> None:
    """Deliver the record of a run folder, by the orders on stdin; ends the process."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # those are for the process that trains, which then ends us
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    trainer = Trainer(sys.stdin.fileno())
    with contextlib.suppress(Exception):  # what is wrong with mlflow is told when a store is asked for
        import_mlflow()
    orders = trainer.read_orders()
    if orders is not None:
        trainer.listen()
        threading.Thread(target=_guard, args=(trainer,), daemon=True).start()
        serve(Path(orders.folder), orders, trainer)
    # All is closed, and taking down what mlflow imported would take a second in which a run waits for us.
    os._exit(0)


def serve(folder: Path, orders: Orders, trainer: Trainer) -> None:
    """Deliver the record in `folder` until it is complete, or until nobody is there to wait for that."""
    sampler = None
    if orders.sample_seconds is not None:
        sampler = Sampler(Journal(folder, SYSTEM_FILE), orders.sample_seconds)
        sampler.start()
    try:
        while (lock := take_lock(folder / DELIVERED_LOCK, LOOK_SECONDS)) is None:  # `ftrun sync` is at it
            if trainer.must_stop():
                return
        try:
            _follow(folder, orders, trainer, sampler)
        finally:
            release_lock(lock)
    finally:
        if sampler is not None:
            sampler.stop()


def _follow(folder: Path, orders: Orders, trainer: Trainer, sampler: Sampler | None) -> None:
    client: Any = None
    pause, beaten = FIRST_PAUSE, -math.inf
    record: Record | None = None
    while not trainer.must_stop():
        over = trainer.is_over()  # read first: the pass below then sends all there will be
        if over:
            if sampler is not None:
                sampler.stop()
            _end_abandoned(folder, orders.session)
        ledger = read_ledger(folder)
        if ledger is None or ledger.session != orders.session:
            return  # the folder was deleted, or the run resumed by another process
        record = record or Record(folder, ledger)
        record.ledger = ledger
        try:
            if client is None:
                client = connect(orders.uri)
            deliver(client, record, trainer.must_stop)
            if not over and time.monotonic() - beaten >= HEARTBEAT:
                beaten = time.monotonic()  # the clock may be set back, and the sign of life has to go on
                client.set_tag(record.delivered.run_id, "ftrun.heartbeat", str(now_ms()))
        except Exception as error:  # whatever the store, its driver or the network raises
            record.change(problem=describe_error(error))
            trainer.wait(FIRST_PAUSE if over else pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            continue
        record.change(problem="")
        pause = FIRST_PAUSE
        if over and ledger.status != "RUNNING" and is_complete(folder, ledger, record.delivered):
            return
        trainer.wait(LOOK_SECONDS)


def _guard(trainer: Trainer) -> None:
    """End this process also where a driver hangs in a call of its own."""
    while not trainer.must_stop():
        time.sleep(LOOK_SECONDS)
    time.sleep(GRACE)
    os._exit(1)


def _end_abandoned(folder: Path, session: str) -> None:
    """End the run of a process that disappeared; one that finished, or was resumed, is left as it is."""
    lock = take_lock(folder / LOCK_FILE)
    if lock is None:
        return  # a data-loading worker survived, or somebody resumes the run
    try:
        ledger = read_ledger(folder)
        if ledger is not None and (ledger.session, ledger.status) == (session, "RUNNING"):
            LedgerFile(folder, abandon_ledger(folder, ledger))
    finally:
        release_lock(lock)


if __name__ == "__main__":
    main()
