"""Numbers from a device, without waiting for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

Judge = Callable[[int, list[float], Sequence[Any]], None]
"""Is given a step, the counts of its batches in all processes, and the micro-batches of this one. Raises Alarm."""


class Counted(NamedTuple):
    """What was counted of the batches of an update."""

    counts: torch.Tensor
    """On the device, of this process."""

    judge: Judge


def bring(numbers: torch.Tensor) -> Callable[[], list[float]]:
    """Begins to bring numbers into main memory; what it returns waits for them, and for nothing that a GPU was given
    to do since."""
    import torch

    if numbers.device.type != "cuda":
        return numbers.tolist
    there = torch.empty(numbers.shape, pin_memory=True)
    there.copy_(numbers, non_blocking=True)
    arrived: Any = torch.cuda.Event()  # type: ignore[no-untyped-call, unused-ignore]  # torch is untyped here
    arrived.record()

    def wait() -> list[float]:
        arrived.synchronize()
        values: list[float] = there.tolist()
        return values

    return wait
