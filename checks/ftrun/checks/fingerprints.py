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


MIXER = 0x1E3779B97F4A7C15
"""An odd number with bits all over."""


def token_keys(rows: Rows) -> NDArray[np.int64]:
    """A number for each row that only rows of the same tokens share; both sides of a pair have one each."""
    return rows.each(_hash_rows)


def _hash_rows(block: Rows) -> NDArray[np.int64]:
    import numpy as np

    ids = block.ids.tobytes()
    places = pairwise((block.starts * block.ids.itemsize).tolist())
    return np.fromiter((hash(ids[start:end]) for start, end in places), np.int64, len(block))


def pair_keys(sides: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for each pair in an array of both sides' keys: shape (pairs, 2) becomes (pairs,)."""
    # A pair and the same pair the other way round are to differ. The product wraps around.
    return sides[:, 0] * MIXER + sides[:, 1]


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


def all_examples(rows: Rows) -> NDArray[np.int64]:
    """Sources and their examples of a split, each once, those that were dropped included: shape (examples, 2)."""
    import numpy as np

    origins = np.concatenate((rows.origins[:: rows.sides], rows.dropped[:: rows.sides]))
    numbers = np.unique(_numbered(origins))
    return np.stack((numbers >> 32, numbers & (2**32 - 1)), 1)


def _numbered(origins: NDArray[np.int32]) -> NDArray[np.int64]:
    """One number for each source and example: shape (rows,)."""
    import numpy as np

    numbers: NDArray[np.int64] = origins[:, 0].astype(np.int64) << 32 | origins[:, 1]
    return numbers
