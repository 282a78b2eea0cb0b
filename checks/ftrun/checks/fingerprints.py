"""Keys under which equal rows meet: by their tokens, and by their texts without what does not matter."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ftrun.checks.examples import parts_of
from ftrun.checks.rows import LossOn, Rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SPACE = b" \t\r\n\v\f"

ENDS = b".,;:!?\"'`*_#>-"
"""What is taken off the ends of a text: the marks that end a sentence, and Markdown's."""


def token_keys(rows: Rows) -> list[bytes]:
    """The bytes of the tokens of each row, for pairs of both sides and the place where the first one ends."""
    ids, starts, sides = rows.ids.astype("int32").tobytes(), rows.starts.tolist(), rows.sides
    if sides == 1:
        return [ids[4 * start : 4 * end] for start, end in pairwise(starts)]
    return [
        ids[4 * starts[i] : 4 * starts[i + sides]] + str(starts[i + 1] - starts[i]).encode()
        for i in range(0, len(starts) - sides, sides)
    ]


def distinct(rows: Rows) -> NDArray[np.int64]:
    """The first row of each example: what a weight repeats is left out. With pairs, the numbers of pairs."""
    import numpy as np

    return np.sort(np.unique(_numbered(rows.origins[:: rows.sides]), return_index=True)[1])


def text_keys(example: Mapping[str, Any], loss_on: LossOn) -> tuple[bytes, bytes]:
    """What an example asks, and all of it: lower case, without white space and the ends of sentences.

    A text without a prompt asks nothing. What a system message says belongs to neither, since many rows share it.
    """
    parts = [(part.answer, _plain(part.text)) for part in parts_of(example, loss_on) if part.role != "system"]
    last = parts.pop()[1] if parts else b""
    asked = b"\n".join(text for _, text in parts)
    return asked, b"\n".join((asked, last))


def _plain(text: str) -> bytes:
    return text.lower().encode("utf-8", "replace").translate(None, SPACE).strip(ENDS)


def all_examples(rows: Rows) -> tuple[list[int], list[int]]:
    """The sources, and the numbers in them, of all examples of a split once, those that were dropped included."""
    import numpy as np

    origins = np.concatenate((rows.origins[:: rows.sides], rows.dropped[:: rows.sides]))
    numbers = np.unique(_numbered(origins))
    return (numbers >> 32).tolist(), (numbers & (2**32 - 1)).tolist()


def _numbered(origins: NDArray[np.int32]) -> NDArray[np.int64]:
    """One number for each source and example: shape (rows,)."""
    import numpy as np

    numbers: NDArray[np.int64] = origins[:, 0].astype(np.int64) << 32 | origins[:, 1]
    return numbers
