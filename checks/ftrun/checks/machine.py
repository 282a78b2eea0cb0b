"""What there is to run on, as the runner found it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """An accelerator that torch can use."""

    name: str
    memory: int
    """Bytes in all."""

    free: int
    """Bytes free now."""

    bf16: bool
    fp16: bool


@dataclass(frozen=True)
class Place:
    """Which process of how many this is, as whoever started it says in its environment."""

    count: int = 1
    """All of the run."""

    rank: int = 0
    """This one, from 0."""

    local_count: int = 1
    """Those on this machine that share its GPUs: each takes the one of its own number."""

    machines: int | None = None
    """Machines that they are spread over; None where nobody says."""

    strategy: str | None = None
    """The strategy that `accelerate launch` brings; None where it brings none."""

    from_outside: bool = False
    """Whether a launcher other than ftrun started it."""


@dataclass(frozen=True)
class Machine:
    """What there is to run on."""

    packages: Mapping[str, str | None]
    """Version of each package that ftrun builds on; None where it is not installed."""

    tested: Mapping[str, str]
    """The range of versions that ftrun is tested with, as `>=1.2,<2`."""

    torch_error: str | None
    """Why torch cannot be imported; None where it can."""

    torch_cuda: str | None
    """CUDA version that torch was built with; None for a CPU build."""

    driver: str | None
    """Version of the NVIDIA driver; None where there is none."""

    driver_cuda: str | None
    """Newest CUDA version that the driver runs; None where it is unknown."""

    nvidia_devices: int
    """NVIDIA devices that the operating system shows, whether or not torch can use them."""

    visible_devices: str | None
    """CUDA_VISIBLE_DEVICES as set; None where it is not."""

    devices: tuple[Device, ...]
    """Devices that torch can use. Empty: the CPU."""

    cpu_count: int
    free_disk: int
    """Bytes free where the output folder is."""

    place: Place = Place()
    """Which process of the run looks at it."""
