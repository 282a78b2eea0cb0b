"""The processes of a run on this machine: started alike, interrupted together, ended together."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from ftrun.runner.launching.surroundings import STARTER

GRACE = 30.0
"""Seconds for the others to end by themselves once one has failed: to say why, and to finish the record."""

LAST_GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL for one that has not."""

LINES = 20
"""Lines that are shown of the output of a process that failed."""

INTERRUPTED = 130
KNOWN = (1, 2, 3, 4, INTERRUPTED)
"""The exit codes of ftrun that say what happened; any other is 1."""

FORWARDED = {signal.SIGINT: signal.SIGINT, signal.SIGTERM: signal.SIGTERM, signal.SIGHUP: signal.SIGTERM}
"""Signals that reach every process, each as which."""


@dataclass(frozen=True)
class Rank:
    """A process of the run, and the file that its output goes to; the first has the terminal."""

    number: int
    process: subprocess.Popen[bytes]
    log: Path | None = None

    @property
    def code(self) -> int | None:
        """Its exit code, minus the signal that ended it; None while it runs."""
        return self.process.poll()


def run_processes(words: Sequence[str], count: int) -> int:
    """Run `ftrun` with these words in `count` processes, the first of which has the terminal; return the exit code.

    All come to the same exit code, and it is returned. Where one fails, the others have `GRACE` to end, and which one
    it was, and how it ended, is told on stderr. Each interruption reaches each of them once.
    """
    shared = _shared_environment(count)
    print(
        f"starting {count} processes, each with {_shown_threads(shared['OMP_NUM_THREADS'])}", file=sys.stderr
    )
    logs = Path(tempfile.mkdtemp(prefix="ftrun-ranks-"))
    asked: list[int] = []
    with _signals_noted(asked):
        ranks = [_start(words, number, shared, logs) for number in range(count)]
        failed = _attend(ranks, asked)
    if failed is None:
        shutil.rmtree(logs)
        return 0
    code = judge_codes([rank.process.returncode for rank in ranks], failed.number, bool(asked))
    said = _describe_log(failed)
    if code in (1, 2) and (said or failed.process.returncode < 0):  # else the first process has told it
        print(f"ftrun: {describe_end(failed.number, failed.process.returncode)}{said}", file=sys.stderr)
    if not (said and code in (1, 2)):
        shutil.rmtree(logs)
    return code


def judge_codes(codes: Sequence[int], failed: int, asked: bool) -> int:
    """The exit code of the run from those of its processes, the first of which to fail was `failed`; `asked` is
    whether it was to stop."""
    stopped = (INTERRUPTED, -signal.SIGINT, -signal.SIGTERM, -signal.SIGKILL)
    if asked and any(code in stopped for code in codes):
        return INTERRUPTED
    return codes[failed] if codes[failed] in KNOWN else 1


def _shared_environment(count: int) -> dict[str, str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {
        "OMP_NUM_THREADS": str(max(1, cores // count)),
        **os.environ,
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        STARTER: str(os.getpid()),
    }


def _shown_threads(number: str) -> str:
    own = "" if "OMP_NUM_THREADS" in os.environ else " of its own, the cores divided"
    return f"{number} thread{'' if number == '1' else 's'}{own}"


def _start(words: Sequence[str], number: int, shared: dict[str, str], logs: Path) -> Rank:
    environ = {**shared, "RANK": str(number), "LOCAL_RANK": str(number)}
    # For -m, Python looks into the folder it is called in before all others: only where it does so here too.
    safely = [] if {"", str(Path.cwd())} & set(sys.path) else ["-P"]
    command = [sys.executable, *safely, "-m", "ftrun", *words]
    # In a group of its own, Ctrl-C in a terminal reaches it from here alone.
    if number == 0:
        return Rank(0, subprocess.Popen(command, env=environ, process_group=0))
    log = logs / f"rank-{number}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=environ, process_group=0, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    return Rank(number, process, log)


@contextmanager
def _signals_noted(asked: list[int]) -> Iterator[None]:
    def note(number: int, frame: FrameType | None) -> None:
        asked.append(FORWARDED[signal.Signals(number)])

    before = {number: signal.signal(number, note) for number in FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _attend(ranks: Sequence[Rank], asked: Sequence[int]) -> Rank | None:
    """Wait until all have ended, hand on what is `asked`, and return the first that failed.

    The others are ended after a grace where one has failed, where the first is done, or where the run was asked twice
    to stop. One that stopped as it was asked to has not failed: the others may still be saving.
    """
    handed_on = 0
    failed: Rank | None = None
    deadline = float("inf")
    while True:
        ended = [rank for rank in ranks if rank.code is not None]
        alive = [rank for rank in ranks if rank not in ended]
        # Of several at once, one that a signal ended is the cause.
        failed = failed or min(
            (one for one in ended if one.code), key=lambda one: one.code or 0, default=None
        )
        if not alive:
            return failed
        for number in asked[handed_on:]:
            for rank in alive:
                rank.process.send_signal(number)
            handed_on += 1
        is_over = any(one.code not in (0, INTERRUPTED) or one.number == 0 for one in ended)
        if (is_over or handed_on > 1) and deadline == float("inf"):
            deadline = time.monotonic() + GRACE
        if time.monotonic() > deadline:
            _end(alive)
        time.sleep(0.05)


def _end(alive: Sequence[Rank]) -> None:
    for rank in alive:
        rank.process.terminate()
    deadline = time.monotonic() + LAST_GRACE
    for rank in alive:
        try:
            rank.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            rank.process.kill()


def describe_end(number: int, code: int) -> str:
    """How a process ended, in words; a negative code is the signal that ended it."""
    if code >= 0:
        return f"process {number} failed first, with exit code {code}"
    why = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
    return f"process {number} was ended by {signal.Signals(-code).name}{why}"


def _describe_log(rank: Rank) -> str:
    """The end of what a process printed, and where the whole is; empty where it printed nothing."""
    text = "" if rank.log is None else rank.log.read_text(encoding="utf-8", errors="replace").strip()
    lines = [f"\n  {line}" for line in text.splitlines()[-LINES:]]
    return f"; its output, kept in {rank.log}, ends with:{''.join(lines)}" if lines else ""
