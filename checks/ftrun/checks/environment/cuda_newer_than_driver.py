"""torch is built for a newer CUDA than the driver runs.

Symptom: "The NVIDIA driver on your system is too old", and no device.
Cause: torch was updated and the driver was not, or a container brings a newer CUDA than its host.
Fix: update the driver, or install torch for the CUDA that the driver runs.
Prevention: choose torch's build by the "CUDA Version" that `nvidia-smi` shows.
Source: NVIDIA's CUDA compatibility: within one major version a newer minor one runs on an older driver;
across major versions only with the compatibility package, and then torch sees its devices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtEnvironment
from ftrun.checks.versions import needs_newer_driver

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("ENV003", title="the driver runs torch's CUDA")
def cuda_newer_than_driver(at: AtEnvironment) -> Iterator[Finding]:
    """Tell a driver of an older major version of CUDA than torch's, where torch sees no device."""
    machine = at.machine
    if machine.torch_cuda is None or machine.driver_cuda is None:
        raise NotApplicable("torch has no CUDA, or the machine has no driver")
    if at.recipe.training["use_cpu"]:
        raise NotApplicable("training.use_cpu is true")
    if not needs_newer_driver(machine):
        return
    yield Finding(
        message=(
            f"torch {machine.packages.get('torch')} is built for CUDA {machine.torch_cuda}; "
            f"driver {machine.driver} runs up to CUDA {machine.driver_cuda}."
        ),
        fix=f"Update the driver, or install a build of torch for CUDA {machine.driver_cuda} or older.",
    )


@cuda_newer_than_driver.fault
def an_old_driver(world: World) -> None:
    """CUDA 13 on a driver of CUDA 12.2."""

    def aged(at: AtEnvironment) -> AtEnvironment:
        facts = replace(
            at.machine,
            devices=(),
            nvidia_devices=1,
            torch_cuda="13.0",
            driver="535.183.01",
            driver_cuda="12.2",
        )
        return replace(at, machine=facts)

    world.after(AtEnvironment, aged)
