"""Locks between processes, held through an open file and gone with the process that held them."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ftrun.schemas.errors import TrackingError

POLL_SECONDS = 0.05
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)  # some network file systems have no locks


def take_lock(path: Path, wait_seconds: float = 0.0) -> int | None:
    """The open file that holds the lock on `path`, or None when another holder kept it for `wait_seconds`.

    On a file system without locks the lock is granted to everybody.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + wait_seconds
    while not _try_lock(handle):
        if time.monotonic() >= deadline:
            os.close(handle)
            return None
        time.sleep(POLL_SECONDS)
    return handle


def release_lock(handle: int) -> None:
    """Unlock, then close: a forked data-loading worker may still hold a copy of the open file."""
    _unlock(handle)
    os.close(handle)


@contextmanager
def hold_lock(path: Path, wait_seconds: float) -> Iterator[None]:
    """Hold the lock on `path` while the block runs.

    Raises TrackingError when another process keeps it for longer than `wait_seconds`.
    """
    handle = take_lock(path, wait_seconds)
    if handle is None:
        raise TrackingError(
            f"{path} was locked by another process for {wait_seconds:.0f} s. "
            "Wait until it is done, or end it if it hangs."
        )
    try:
        yield
    finally:
        release_lock(handle)


if sys.platform == "win32":
    import msvcrt

    def _try_lock(handle: int) -> bool:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(handle: int) -> None:
        os.lseek(handle, 0, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
        return True

    def _unlock(handle: int) -> None:
        try:
            fcntl.flock(handle, fcntl.LOCK_UN)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
