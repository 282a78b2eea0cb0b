"""Whether a process is behind a run that is recorded as running."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ftrun.runner.tracking.ledger import LOCK_FILE
from ftrun.runner.tracking.lock import release_lock, take_lock

Life = Literal["alive", "gone", "silent"]

SILENCE_MS = 300_000  # a heartbeat comes every 60 s, and a store may be away for some of them


def look_for_life(folder: Path | None, last_sign: int, now: int) -> Life:
    """The lock in the run folder tells, where it is on this machine: it goes with the process that held it. Elsewhere
    there is only the last sign of life, in milliseconds since the epoch: too old, and the run is silent."""
    held = None if folder is None else _is_held(folder / LOCK_FILE)
    if held is not None:
        return "alive" if held else "gone"
    return "alive" if now - last_sign < SILENCE_MS else "silent"


def _is_held(lock: Path) -> bool | None:
    """Whether a process holds a lock; None where the file system does not tell."""
    try:
        if not lock.is_file():
            return None
        first = take_lock(lock)
        if first is None:
            return True
        try:
            # A file system without locks grants them to everybody.
            second = take_lock(lock)
        finally:
            release_lock(first)
    except OSError:  # a folder of somebody else
        return None
    if second is None:
        return False
    release_lock(second)
    return None
