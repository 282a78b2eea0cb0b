"""Rows as they train: tokens and labels in flat arrays, each row with the place that it came from."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, overload

from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

IGNORED = -100
"""The label that torch's cross entropy leaves out."""

BLOCK = 1 << 22
"""Tokens that are looked at together where all are."""

LossOn = Literal["completion", "assistant", "all", "nothing"]
"""Which tokens are trained. `nothing`: rows are prompts, which a model is to answer while training."""


@dataclass(frozen=True)
class BadRow:
    """A row of a file that is not a row: broken JSON, not a mapping, without the format's columns."""

    row: int
    """Row (in a jsonl file: line) of the file, from 1."""

    reason: str


@dataclass(frozen=True)
class SourceHead:
    """What can be told of a source by a look at its first row, without torch."""

    label: str
    """The path as the recipe writes it."""

    key: str
    """The recipe's key, `data.train.0`."""

    place: Literal["file", "folder", "missing", "hub"]
    looked_for: str
    """The path that was looked for."""

    columns: tuple[str, ...] | None = None
    """Columns of the first row, as they are called there; None where a look does not tell them."""

    problem: str | None = None
    """Why the first row cannot be read."""


@dataclass(frozen=True)
class SourceRows:
    """One source as read: every row of the file is in `examples` or in `bad`."""

    label: str
    """The path as the recipe writes it."""

    key: str
    """The recipe's key, `data.train.0`."""

    format: str
    """The format, recognised or given, as `ftrun.schemas.formats` lists them."""

    columns: tuple[str, ...]
    """The columns of the file, as they are called there."""

    examples: Sequence[Mapping[str, Any]]
    """Each row, read again when it is asked for, in one of TRL's shapes: {text}, {prompt, completion} or {messages},
    with tools; or {prompt}.

    A pair of answers is two examples, the chosen one before the rejected one, of one prompt."""

    numbers: Sequence[int]
    """The row in the file of each example, from 1."""

    bad: tuple[BadRow, ...]
    loss_on: LossOn
    """Which tokens of these rows are trained."""

    loss_reason: str
    """Why: as the recipe says, or what follows from the format."""

    sides: int = 1
    """Examples that a row of the file becomes: 2 where it is a pair of answers."""


@dataclass(frozen=True)
class SourceCount:
    """What became of the rows of one source in one split.

    read = unreadable + held_out + unused + kept + fully_masked + too_long − repeated, and kept is what the
    data loader feeds (before packing). A pair of answers counts as one row.
    """

    label: str
    split: Literal["train", "eval"]
    read: int
    unreadable: int = 0
    held_out: int = 0
    """Rows given to evaluation."""
    unused: int = 0
    """Rows left out by a weight under 1."""
    repeated: int = 0
    """Extra copies made by a weight over 1."""
    fully_masked: int = 0
    """Rows dropped because no token of them would be trained."""
    too_long: int = 0
    """Rows dropped because they are longer than the longest that is taken, and are never cut."""
    kept: int = 0
    truncated: int = 0
    """Of the kept rows, those cut at `max_length`."""
    tokens: int = 0
    trained_tokens: int = 0

    @property
    def adds_up(self) -> bool:
        """Whether every row read is accounted for."""
        dropped = self.fully_masked + self.too_long
        used = self.unreadable + self.held_out + self.unused + self.kept + dropped
        return self.read + self.repeated == used


@dataclass(frozen=True)
class Row:
    """One tokenised row."""

    ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    full_length: int
    """Tokens before truncation."""

    example: Mapping[str, Any]
    source: SourceRows
    where: Where

    @property
    def truncated(self) -> bool:
        """Whether tokens of this row were cut off."""
        return self.full_length > len(self.ids)


@dataclass(frozen=True)
class Rows:
    """All rows of a split, in the order in which the data set holds them.

    Arrays of tokens may be larger than memory: they are mapped from files where they are large. What looks at every
    token goes by `blocks`.

    Of pairs, row 2i is the chosen side of pair i and row 2i + 1 the rejected one, each whole with its prompt.
    Row i is `ids[starts[i]:starts[i + 1]]`, with `labels` at the same places: a token's own id where it
    is trained, −100 where it is not.
    """

    ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    starts: NDArray[np.int64]
    full_lengths: NDArray[np.int32]
    """Tokens of each row before truncation."""

    origins: NDArray[np.int32]
    """For each row, the index of its source and of its example there: shape (rows, 2)."""

    sources: tuple[SourceRows, ...]
    dropped: NDArray[np.int32]
    """Origins of the rows left out because no token of them would be trained: shape (dropped, 2)."""

    too_long: NDArray[np.int32]
    """Origins of the rows left out because they are too long, and are not cut: shape (too long, 2)."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> Row:
        start, end = self.starts[index], self.starts[index + 1]
        source, example = (int(part) for part in self.origins[index])
        return Row(
            ids=self.ids[start:end],
            labels=self.labels[start:end],
            full_length=int(self.full_lengths[index]),
            example=self.sources[source].examples[example],
            source=self.sources[source],
            where=self.where(source, example),
        )

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    @property
    def examples(self) -> Sequence[Mapping[str, Any]]:
        """The example of each row."""
        return _Examples(self)

    @property
    def sides(self) -> int:
        """Rows that stand together: 2 for pairs of answers."""
        return max(source.sides for source in self.sources)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row as it trains: shape (rows,)."""
        return self.starts[1:] - self.starts[:-1]

    @cached_property
    def trained(self) -> NDArray[np.int64]:
        """Trained tokens of each row: shape (rows,)."""
        return self.each(lambda block: block.count(block.labels != IGNORED))

    def count(self, tokens: NDArray[np.bool_]) -> NDArray[np.int64]:
        """How many tokens of each row are among these: `tokens` of shape (tokens,), result of shape (rows,)."""
        import numpy as np

        total = np.concatenate(([0], tokens.cumsum(dtype=np.int64)))
        return total[self.starts[1:]] - total[self.starts[:-1]]

    def each(self, measure: Callable[[Rows], NDArray[Any]]) -> NDArray[Any]:
        """What `measure` makes of every row, block by block: shape (rows, …)."""
        import numpy as np

        return np.concatenate([measure(block) for _, block in self.blocks()] or [measure(self)])

    def blocks(self, most: int = BLOCK) -> Iterator[tuple[int, Rows]]:
        """All rows in pieces of about `most` tokens, sides of a row together, each with the number of its first row.

        Memory of mapped files that a piece was read from is let go of when the next one is asked for.
        """
        first, sides = 0, self.sides
        while first < len(self):
            last = int(self.starts.searchsorted(self.starts[first] + most, "right")) - 1
            last = max(last - (last - first) % sides, first + sides)
            start, end = self.starts[first], self.starts[last]
            yield (
                first,
                replace(
                    self,
                    ids=self.ids[start:end],
                    labels=self.labels[start:end],
                    starts=self.starts[first : last + 1] - start,
                    full_lengths=self.full_lengths[first:last],
                    origins=self.origins[first:last],
                ),
            )
            self.release()
            first = last

    def release(self) -> None:
        """Let go of the memory that holds what was read of mapped files; it is read again when it is asked for."""
        for array in (self.ids, self.labels):
            base: Any = array
            while hasattr(base, "base"):
                base = base.base
            if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
                base.madvise(mmap.MADV_DONTNEED)

    def where(self, source: int, example: int) -> Where:
        """The file and row that an example was read from."""
        return Where(file=self.sources[source].label, row=self.sources[source].numbers[example])


@dataclass(frozen=True)
class _Examples(Sequence[Mapping[str, Any]]):
    """The examples of rows, each read when it is asked for."""

    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Mapping[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> Mapping[str, Any] | Sequence[Mapping[str, Any]]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        source, example = (int(part) for part in self.rows.origins[index])
        return self.rows.sources[source].examples[example]
