"""The courier of a run, as the process that trains sees it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from ftrun.runner.tracking.courier import FINISH, STOP, Orders

_waiting: list[subprocess.Popen[bytes]] = []
"""The process that the next courier of this process is, where one was started ahead."""


@contextlib.contextmanager
def start_ahead() -> Iterator[None]:
    """Start the process before there is a run, so that it imports mlflow on a core that has nothing to do while this
    one imports torch. The first run in the block takes it; nothing is left of one that no run took."""
    with contextlib.suppress(OSError):  # told when there is a run
        _waiting.append(_start_process())
    try:
        yield
    finally:
        for process in _waiting:
            process.kill()
            process.communicate()
        _waiting.clear()


class Courier:
    """A process and not a thread: mlflow would hold the interpreter's lock while training waits for it."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self.problem = ""
        self._process = self._start()

    def finish(self, wait_seconds: float) -> None:
        """Tell that the ledger is final, and wait until all of it is delivered, at most `wait_seconds`.

        A courier that was killed is replaced. One that is not done in time ends soon, by itself.
        """
        end = time.monotonic() + wait_seconds
        if self._process is None or self._wait(self._process, end):
            self._process = self._start()
            if self._process is not None and (code := self._wait(self._process, end)):
                self.problem = f"the delivering process ended with code {code}"

    def _start(self) -> subprocess.Popen[bytes] | None:
        """Give the orders to a new process; where the machine cannot start one, training goes on all the same."""
        try:
            process = _waiting.pop() if _waiting else _start_process()
        except OSError as error:
            self.problem = f"the delivering process cannot be started: {error}"
            return None
        self.problem = ""
        _send(process, self._orders.encode())
        return process

    def _wait(self, process: subprocess.Popen[bytes], end: float) -> int:
        """Its exit code once it has delivered all; 0 also when it has not by `end`."""
        _send(process, f"{FINISH}\n".encode())
        try:
            return process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            return 0
        finally:  # also when Ctrl-C cuts the waiting short
            _leave(process)


def _start_process() -> subprocess.Popen[bytes]:
    # It must find what this process finds, also where a test runner or a launcher extended the path.
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "ftrun.runner.tracking.courier"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
        process_group=0,  # Ctrl-C reaches all of the terminal's group: this one has to stay
    )


def _send(process: subprocess.Popen[bytes], line: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it was killed; `finish` will see
        process.stdin.write(line)
        process.stdin.flush()


def _leave(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    if process.poll() is None:
        _send(process, f"{STOP}\n".encode())
        threading.Thread(target=process.wait, daemon=True).start()  # no zombie in a long-lived process
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
