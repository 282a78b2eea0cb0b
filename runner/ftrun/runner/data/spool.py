"""Examples in the order of their file, however many: the first ones in memory, the others in a temporary file."""

from __future__ import annotations

import hashlib
import marshal
import os
import tempfile
import weakref
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, cast, overload

from ftrun.runner.data.storage import scratch_folder

NEAR = 1 << 26
"""Bytes of examples, as they are written, that stay in memory as objects, where they take about three times as many."""

BUFFER = 1 << 20
"""Bytes that are written to the file or read from it at a time."""

VERSION = 2
"""Of marshal's format: a later one writes equal examples in several ways, by who else holds their texts."""


class SpooledExamples(Sequence[Mapping[str, Any]]):
    """A sequence of examples that grows at its end.

    The file has no name, is read by no other process and goes with the spool. marshal, which reads several times as
    fast as JSON, keeps lists, tuples and numbers as they are; an example that holds something else stays in memory.
    """

    def __init__(self) -> None:
        self._near: list[Mapping[str, Any]] = []
        self._odd: dict[int, Mapping[str, Any]] = {}
        self._ends = array("q", [0])
        """Where each example ends of those that are not near, and before them 0."""
        self._file: IO[bytes] | None = None
        self._size = 0
        self._digest = hashlib.sha256()

    def append(self, example: Mapping[str, Any]) -> None:
        """Add an example."""
        try:
            written = marshal.dumps(cast(dict[str, Any], example), VERSION)
        except ValueError:  # a date, for example, which a column of a Parquet file may hold
            written = repr(example).encode()
            self._odd[len(self)] = example
        self._digest.update(len(written).to_bytes(8, "little") + written)
        self._size += len(written)
        if self._size <= NEAR:
            self._near.append(example)
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=scratch_folder(), buffering=BUFFER)  # noqa: SIM115
            weakref.finalize(self, self._file.close)
        self._file.write(written)
        self._ends.append(self._ends[-1] + len(written))

    def finish(self) -> None:
        """Write what waits to be written: before this, examples cannot be read."""
        if self._file is not None:
            self._file.flush()

    @property
    def digest(self) -> str:
        """SHA-256 of all examples in their order."""
        return self._digest.hexdigest()

    def __len__(self) -> int:
        return len(self._near) + len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Mapping[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> Mapping[str, Any] | Sequence[Mapping[str, Any]]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        place = number - len(self._near)
        if place < 0:
            return self._near[number]
        [found] = self._read(place, place + 1)
        return found

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        yield from self._near
        first, count = 0, len(self._ends) - 1
        while first < count:
            last = first + 1
            while last < count and self._ends[last + 1] - self._ends[first] <= BUFFER:
                last += 1
            yield from self._read(first, last)
            first = last

    def _read(self, first: int, last: int) -> Iterator[Mapping[str, Any]]:
        """The examples from one place of the file to before another."""
        assert self._file is not None
        start = self._ends[first]
        # By its place, so that processes that share the file do not disturb each other.
        read = memoryview(os.pread(self._file.fileno(), self._ends[last] - start, start))
        for place in range(first, last):
            number = place + len(self._near)
            written = read[self._ends[place] - start : self._ends[place + 1] - start]
            yield self._odd[number] if number in self._odd else marshal.loads(written)
