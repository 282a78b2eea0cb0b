"""There are more processes than GPUs.

Symptom: "CUDA error: invalid device ordinal", "Duplicate GPU detected", or a run that waits for ever at its start.
Cause: each process takes the GPU of its own number on the machine, and the machine has fewer, or
`CUDA_VISIBLE_DEVICES` or the job shows fewer.
Fix: start as many processes as there are GPUs, or ask the scheduler for more; `training.use_cpu: true` trains without.
Source: accelerate takes the device of LOCAL_RANK (`PartialState.set_device`); NCCL refuses two processes on one GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.machine import Device, Place
from ftrun.checks.stages import AtEnvironment

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("ENV008", title="each process has a GPU of its own", severity="error")
def more_processes_than_gpus(at: AtEnvironment) -> Iterator[Finding]:
    """Tell processes of this machine for which there is no GPU."""
    devices, count = len(at.machine.devices), count_here(at)
    if at.recipe.training["use_cpu"] or not devices:
        raise NotApplicable("the run is on the CPU")
    if count > devices:
        shown = "1 GPU" if devices == 1 else f"{devices} GPUs"
        hidden = (
            ""
            if at.machine.visible_devices is None
            else f" (CUDA_VISIBLE_DEVICES={at.machine.visible_devices})"
        )
        yield Finding(
            f"{count} processes on this machine, and torch sees {shown}{hidden}.",
            f"Set launch.processes to {devices * at.recipe.launch.machines}, start as many, or make more GPUs visible.",
            at.where("launch.processes"),
        )


def count_here(at: AtEnvironment) -> int:
    """The processes on this machine, those that are started with the run among them."""
    place = at.machine.place
    return place.local_count if place.from_outside or place.count > 1 else at.recipe.launch.per_machine


def with_gpus(at: AtEnvironment, count: int, place: Place | None = None) -> AtEnvironment:
    """The stage on a machine of so many GPUs, for faults."""
    card = Device(name="NVIDIA H100", memory=80 * 2**30, free=79 * 2**30, bf16=True, fp16=True)
    machine = replace(at.machine, devices=(card,) * count, nvidia_devices=count, torch_error=None)
    return replace(at, machine=machine if place is None else replace(machine, place=place))


@more_processes_than_gpus.fault
def eight_asked_of_two(world: World) -> None:
    """A recipe for a larger machine."""
    world.recipe["launch"] = {"processes": 8}
    world.after(AtEnvironment, lambda at: with_gpus(at, 2))


@more_processes_than_gpus.fault
def a_job_with_one_gpu(world: World) -> None:
    """torchrun was told 4, and the scheduler gave one GPU."""
    place = Place(count=4, local_count=4, from_outside=True)
    world.after(AtEnvironment, lambda at: with_gpus(at, 1, place))
