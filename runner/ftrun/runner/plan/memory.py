"""Whether a run fits: its peak memory, and the largest micro-batch that does."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftrun.checks.machine import Machine
    from ftrun.runner.plan.footprint import Footprint

GIB = 2**30
CONTEXT = int(0.8 * GIB)
"""Bytes that a CUDA context, cuBLAS and the libraries around them take: 0.5 to 0.8 GiB."""

SLACK = 0.05
"""The share of a device that the caching allocator holds and does not use, or that kernels use for themselves."""


@dataclass(frozen=True)
class Room:
    """The memory of the device that a run is planned for."""

    device: str
    total: int
    cuda: bool

    @property
    def usable(self) -> int:
        """What tensors can have of it."""
        return int(self.total * (1 - SLACK)) - CONTEXT


@dataclass(frozen=True)
class Fit:
    """A micro-batch with as many steps of accumulation as leave the effective batch as it is."""

    rows: int
    accumulation: int
    peak: int


@dataclass(frozen=True)
class Memory:
    """The peak of a training step on the longest micro-batch, and what it is made of, in bytes."""

    room: Room
    how: str
    """`fake tensors`, `closed form` or `measured`."""

    rows: int
    """Rows, pairs or responses of the micro-batch."""

    tokens: int
    """Tokens of its longest row."""

    peak: int
    moment: str
    """The part of the step in which it is reached."""

    models: Mapping[str, int]
    optimizer: int
    gradients: int
    """What there is of gradients at the peak."""

    activations: int
    """What is kept for the backward pass."""

    other: int
    """Logits, gradients of activations and other tensors that soon go."""

    largest: Fit | None
    """The largest micro-batch that fits; None where not even one row does."""

    measured: int | None = None
    """The peak that the device measured on the longest batch, where it was tried."""

    @property
    def fits(self) -> bool:
        """Whether the micro-batch of the recipe fits."""
        return self.peak <= self.room.usable


def find_room(machine: Machine | None, asked: int | None) -> Room | None:
    """The memory that is asked for, else that of the first CUDA device, else this machine's; None where neither
    can be told."""
    if asked is not None:
        return Room(f"a GPU of {asked / GIB:.4g} GiB", asked, cuda=True)
    if machine is not None and machine.devices:
        return Room(machine.devices[0].name, machine.devices[0].memory, cuda=True)
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return Room("the CPU", os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), cuda=False)


def read_size(text: str) -> int:
    """The bytes of `24GiB`, `24GB`, `80G` or a plain number of GiB. Raises ValueError for anything else."""
    units = {"gib": GIB, "gb": 10**9, "g": GIB, "mib": 2**20, "mb": 10**6, "tib": 2**40, "": GIB}
    number = text.strip().rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    unit = text.strip()[len(number) :].strip().lower()
    if unit not in units or not float(number) > 0:
        raise ValueError(f"{text!r} is no size of memory")
    return int(float(number) * units[unit])


def describe_memory(
    found: Footprint, room: Room, *, rows: int, tokens: int, largest: Fit | None, how: str
) -> Memory:
    """The peak of a footprint, taken apart."""
    part = found.highest
    moment = next(name for name, one in found.parts.items() if one == part)
    rest = part.bytes - found.weights - found.optimizer - part.gradients
    activations = max(0, min(found.activations, rest))
    return Memory(
        room=room,
        how=how,
        rows=rows,
        tokens=tokens,
        peak=part.bytes,
        moment=moment,
        models=found.models,
        optimizer=found.optimizer,
        gradients=part.gradients,
        activations=activations,
        other=rest - activations,
        largest=largest,
    )


def find_largest(predict: Callable[[int, int], int], rows: int, accumulation: int, room: Room) -> Fit | None:
    """The largest micro-batch that fits and divides the effective batch; None where one row is too much.

    `predict` gives the peak of a micro-batch with an accumulation. Memory grows with the micro-batch, so that the
    divisors are halved until one is left.
    """
    whole = rows * accumulation
    sizes = [size for size in range(1, whole + 1) if whole % size == 0]
    best: Fit | None = None
    low, high = 0, len(sizes) - 1
    while low <= high:
        middle = (low + high) // 2
        fit = Fit(sizes[middle], whole // sizes[middle], predict(sizes[middle], whole // sizes[middle]))
        if fit.peak <= room.usable:
            best, low = fit, middle + 1
        else:
            high = middle - 1
    return best
