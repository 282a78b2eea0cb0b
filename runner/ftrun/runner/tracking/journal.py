"""The journal: one JSON line for each logged step, in the run folder, before anything leaves it.

A line is `{"step": 3, "time": 1767225600000, "metrics": {"train/loss": 1.25}}`, time in milliseconds since
the epoch. Floats are written by repr and come back bit for bit. JSON has no NaN and no infinities: they
are the strings "NaN", "Infinity" and "-Infinity", so that any JSON reader can read the file.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

METRICS_FILE = "metrics.jsonl"
SYNC_SECONDS = 1.0  # an fsync is 0.4 ms on a local disk and much more on a network one


@dataclass(frozen=True)
class Entry:
    """The metrics of one step; `time` in milliseconds since the epoch."""

    step: int
    time: int
    metrics: Mapping[str, float]


class Journal:
    """Appends entries to `<folder>/<file>`; an existing file is continued.

    Every entry is flushed, so it survives the process. It is synced to the disk at most once a second and
    at close, so a power cut may take the last second.
    """

    def __init__(self, folder: Path, file: str = METRICS_FILE) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / file
        self._lock = threading.Lock()
        self._stream = self.path.open("ab")
        self._synced = time.monotonic()
        if _ends_torn(self.path):
            self._stream.write(b"\n")

    def append(self, step: int, metrics: Mapping[str, float], at: int | None = None) -> Entry:
        """Write one entry; `at` is in milliseconds since the epoch, now if None."""
        entry = Entry(
            step, now_ms() if at is None else at, {key: float(value) for key, value in metrics.items()}
        )
        line = encode_entry(entry)
        with self._lock:
            self._stream.write(line)
            self._stream.flush()
            if time.monotonic() - self._synced >= SYNC_SECONDS:
                os.fsync(self._stream.fileno())
                self._synced = time.monotonic()
        return entry

    def close(self) -> None:
        with self._lock:
            if not self._stream.closed:
                self._stream.flush()
                os.fsync(self._stream.fileno())
                self._stream.close()


def read_journal(path: Path) -> list[Entry]:
    """All entries in the order of the file; a line that a crash cut short is left out.

    A resumed run may hold a step twice: the later entry is the one that counts.
    """
    if not path.exists():
        return []
    with path.open("rb") as stream:
        return _decode_lines(stream)


def read_entries(path: Path, offset: int, limit: int) -> tuple[list[Entry], int]:
    """Whole entries from byte `offset` on, until they hold `limit` metrics; and the offset after them."""
    if not path.exists():
        return [], offset
    lines: list[bytes] = []
    entries: list[Entry] = []
    count = 0
    with path.open("rb") as stream:
        stream.seek(offset)
        while count < limit:
            line = stream.readline()
            if not line.endswith(b"\n"):  # the end, or a line that is just being written
                break
            lines.append(line)
            found = _decode_lines([line])
            entries += found
            count += sum(len(entry.metrics) for entry in found)
    return entries, offset + sum(map(len, lines))


def whole_size(path: Path) -> int:
    """Bytes up to the end of the last whole line: a crash or a full disk may have cut the one after it short."""
    if not path.exists():
        return 0
    with path.open("rb") as stream:
        end = stream.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 65_536)
            stream.seek(start)
            found = stream.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0


def encode_entry(entry: Entry) -> bytes:
    """An entry as its line in the journal; NaN and infinities, which JSON lacks, as text."""
    metrics = {key: value if math.isfinite(value) else _spell(value) for key, value in entry.metrics.items()}
    document = {"step": entry.step, "time": entry.time, "metrics": metrics}
    return json.dumps(document, allow_nan=False, ensure_ascii=False).encode() + b"\n"


def now_ms() -> int:
    """Milliseconds since the epoch, as MLflow counts time."""
    return time.time_ns() // 1_000_000


def _decode_lines(lines: Iterable[bytes]) -> list[Entry]:
    entries = []
    for line in lines:
        try:
            document = json.loads(line)
        except ValueError:
            continue
        metrics = {key: float(value) for key, value in document["metrics"].items()}
        entries.append(Entry(document["step"], document["time"], metrics))
    return entries


def _spell(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _ends_torn(path: Path) -> bool:
    with path.open("rb") as stream:
        if stream.seek(0, os.SEEK_END) == 0:
            return False
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) != b"\n"
