"""GPUs of this machine stay idle.

Symptom: the run takes several times as long as the machine could make it.
Cause: one process trains on one GPU, and the recipe asks for fewer processes than there are GPUs.
Fix: set `launch.processes` to their number; the effective batch grows with it, so divide
`gradient_accumulation_steps` or the batch size, or choose the rate anew.
Prevention: `CUDA_VISIBLE_DEVICES=0 ftrun RECIPE` says that one is meant, and leaves the others to other runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.environment.more_processes_than_gpus import count_here, with_gpus
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtEnvironment

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("ENV009", title="every GPU that torch sees is used", severity="info")
def gpus_idle(at: AtEnvironment) -> Iterator[Finding]:
    """Tell GPUs that no process takes."""
    devices, count = len(at.machine.devices), count_here(at)
    if at.recipe.training["use_cpu"] or not devices:
        raise NotApplicable("the run is on the CPU")
    if count < devices:
        named = "1 process trains" if count == 1 else f"{count} processes train"
        yield Finding(
            f"{named} on this machine, and torch sees {devices} GPUs: {devices - count} stay idle.",
            f"Set launch.processes to {devices * at.recipe.launch.machines} to use them; the effective batch grows "
            "with it. Or show this run fewer: CUDA_VISIBLE_DEVICES.",
            at.where("launch.processes"),
        )


@gpus_idle.fault
def one_process_on_eight(world: World) -> None:
    """The recipe was written on a smaller machine."""
    world.after(AtEnvironment, lambda at: with_gpus(at, 8))
