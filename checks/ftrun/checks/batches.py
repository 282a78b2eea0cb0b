"""The rows that a collated batch holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ftrun.checks.rows import IGNORED, Rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Pair = tuple["NDArray[np.int32]", "NDArray[np.int32]"]
"""The tokens of a row and their labels."""


def find_rows(rows: Rows, wanted: Iterable[bytes]) -> dict[bytes, list[int]]:
    """Of wanted rows, told by the bytes of their tokens, the numbers under which they are there; of pairs, each
    side is a row."""
    import numpy as np

    found: dict[bytes, list[int]] = {key: [] for key in wanted}
    lengths = [len(key) // rows.ids.itemsize for key in found]
    for first, block in rows.blocks():
        for number in np.flatnonzero(np.isin(block.lengths, lengths)).tolist():
            key = block.ids[block.starts[number] : block.starts[number + 1]].tobytes()
            if key in found:
                found[key].append(first + number)
    return {key: numbers for key, numbers in found.items() if numbers}


def rows_of(batch: Any, pad: int) -> Iterator[Pair]:
    """The rows in a batch without their padding; of a batch without padding its documents."""
    import numpy as np

    ids = batch["input_ids"].cpu().numpy().astype(np.int32)
    labels = ids
    if "labels" in batch:
        labels = batch["labels"].cpu().numpy().astype(np.int32)
    elif "completion_mask" in batch:
        labels = np.where(batch["completion_mask"].cpu().numpy() > 0, ids, IGNORED)
    if "position_ids" in batch:
        # Each document begins at position 0; a row of padding at the end is positions of 0 as well.
        for tokens, taught, positions in zip(ids, labels, batch["position_ids"].cpu().numpy(), strict=True):
            for part in np.split(np.arange(len(tokens)), np.flatnonzero(positions == 0)[1:]):
                if len(part) > 1 or tokens[part[0]] != pad:
                    yield tokens[part], taught[part]
        return
    present = (
        batch["attention_mask"].cpu().numpy().astype(bool)
        if "attention_mask" in batch
        else np.ones_like(ids, bool)
    )
    for tokens, taught, there in zip(ids, labels, present, strict=True):
        yield tokens[there], taught[there]
