"""The rows of the data stage by a number, so that a batch on a device can be asked which of them it holds.

The number of a row is a sum over its tokens of a mixture of token and position, modulo 2⁶⁴; the mixture is as the one
that ends MurmurHash3, with other multipliers. That two different rows of a million have the same one has a chance under
1e-7.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from ftrun.checks.fed import Segments

FACTORS = (-7046029254386353131, -4417276706812531889, 1609587929392839161)
"""Odd, with the bits of a random number."""

REJECTED = 7809847782465536323
"""What is added to the number of a rejected side, so that it is not taken for a chosen one."""


def number_tokens(ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """What each token adds to the number of its row; both of type int64, of one shape."""
    first, second, third = FACTORS
    mixed = (ids + 1) * first + (positions + 1) * second
    mixed = (mixed ^ (mixed >> 29)) * third
    return mixed ^ (mixed >> 32)


def number_rows(ids: NDArray[np.int32], starts: NDArray[np.int64], sides: int = 1) -> torch.Tensor:
    """The numbers of rows in flat arrays: shape (rows,). Of pairs, with two sides, every other is a rejected one."""
    import numpy as np
    import torch

    lengths = np.diff(starts)
    positions = torch.from_numpy(np.arange(len(ids)) - np.repeat(starts[:-1], lengths))
    mixed = number_tokens(torch.from_numpy(ids.astype(np.int64)), positions)
    total = torch.nn.functional.pad(mixed.cumsum(0), (1, 0))
    numbers = total[starts[1:]] - total[starts[:-1]]
    if sides == 2:
        numbers[1::2] += REJECTED
    return numbers


class Register:
    """All rows of the data stage, on a device, and how often each was fed in this epoch. What looks a batch up waits
    for nothing."""

    def __init__(
        self,
        parts: Iterable[tuple[torch.Tensor, torch.Tensor | None]],
        sources: int,
        device: Any,
        sides: int = 1,
    ) -> None:
        """`parts` has the numbers of rows, and for each the index of its source, of which there are `sources`; None
        where that is not known."""
        import torch

        numbers, origins = zip(
            *((part, torch.full_like(part, sources) if own is None else own) for part, own in parts),
            strict=True,
        )
        self.sources, self.sides = sources, sides
        keys, places = torch.unique(torch.cat(numbers), return_inverse=True)
        lowest, highest = (
            torch.zeros_like(keys).scatter_reduce(0, places, torch.cat(origins), how, include_self=False)
            for how in ("amin", "amax")
        )
        self.rows = len(places)
        self.keys = keys.to(device)
        self.copies = places.bincount(minlength=len(keys)).to(device)
        # A row that two sources have is of neither.
        self.origins = torch.where(lowest == highest, lowest, sources).to(device)
        self.fed = torch.zeros_like(self.keys)

    def begin(self) -> None:
        """An epoch begins: nothing has been fed in it."""
        self.fed.zero_()

    def look_up(self, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The place of each row, and whether it is there."""
        import torch

        places = torch.searchsorted(self.keys, numbers).clamp(max=len(self.keys) - 1)
        return places, self.keys[places] == numbers

    def name_origins(self, numbers: torch.Tensor) -> torch.Tensor:
        """The source of each row; the number of sources where it is of none or of several."""
        import torch

        places, known = self.look_up(numbers)
        return torch.where(known, self.origins[places], self.sources)

    def count(self, segments: Segments) -> torch.Tensor:
        """What a batch holds: rows that the data stage does not have, rows that were fed already and have no copy; for
        each source its rows, and for each its trained tokens: shape (2 + 2 × sources,)."""
        import torch

        ids = segments.ids.flatten().long()
        there, numbers = segments.there.flatten(), torch.zeros_like(ids)
        numbers.index_add_(0, segments.rows, number_tokens(ids, segments.positions) * there)
        if self.sides == 2:  # a batch has the chosen sides of all pairs before the rejected ones
            behind = torch.arange(len(ids), device=ids.device) >= segments.begins.sum() // 2
            numbers += behind * REJECTED
        places, known = self.look_up(numbers)
        real = torch.zeros_like(ids).index_add_(0, segments.rows, segments.begins.flatten().long())
        known = known & (real > 0)
        self.fed.index_add_(0, places, known.long())
        again = known & (self.fed[places] > self.copies[places])
        trained = torch.zeros_like(ids).index_add_(0, segments.rows, segments.trained.flatten().long())
        own = known[:, None] & (
            self.origins[places][:, None] == torch.arange(self.sources, device=ids.device)
        )
        return torch.cat(
            [
                torch.stack([((real > 0) & ~known).sum(), again.sum()]),
                own.sum(0),
                (own * trained[:, None]).sum(0),
            ]
        )
