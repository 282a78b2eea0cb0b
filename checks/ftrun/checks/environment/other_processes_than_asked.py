"""The launcher brings other processes than the recipe asks for.

Symptom: the loss falls slower or faster than it did, at the same settings: the effective batch is another one.
Cause: torchrun, `accelerate launch` or srun starts another number of processes than `launch.processes`, on another
number of machines, or `accelerate launch` was configured for FSDP or DeepSpeed and the recipe was not.
Fix: start as many as the recipe says, or leave `launch.processes` out and every number is taken.
Prevention: `ftrun launch RECIPE --slurm` and `--kubernetes` write what fits the recipe.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.machine import Place
from ftrun.checks.stages import AtEnvironment

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("ENV007", title="the launcher brings the processes that the recipe asks for", severity="error")
def other_processes_than_asked(at: AtEnvironment) -> Iterator[Finding]:
    """Tell a number of processes or machines, or a strategy, that is not the recipe's."""
    place, launch = at.machine.place, at.recipe.launch
    if not place.from_outside:
        raise NotApplicable("no launcher has started this process")
    if launch.processes not in (None, place.count):
        yield Finding(
            f"launch.processes is {launch.processes}, and the launcher started {place.count}.",
            f"Start {launch.processes}, or remove launch.processes to take what the launcher brings.",
            at.where("launch.processes"),
        )
    elif place.machines not in (None, launch.machines) and launch.processes is not None:
        yield Finding(
            f"launch.machines is {launch.machines}, and the launcher uses {place.machines}.",
            f"Set launch.machines to {place.machines}, or start on {launch.machines}.",
            at.where("launch.machines"),
        )
    if place.strategy not in (None, launch.strategy):
        yield Finding(
            f"`accelerate launch` was configured for {place.strategy}, and launch.strategy is {launch.strategy}.",
            f"Set launch.strategy to {place.strategy}, or launch without it.",
            at.where("launch.strategy"),
        )


def _launched(world: World, place: Place) -> None:
    world.after(AtEnvironment, lambda at: replace(at, machine=replace(at.machine, place=place)))


@other_processes_than_asked.fault
def another_number(world: World) -> None:
    """A recipe for four, in a job of two."""
    world.recipe["launch"] = {"processes": 4}
    _launched(world, Place(count=2, local_count=2, from_outside=True))


@other_processes_than_asked.fault
def another_number_of_machines(world: World) -> None:
    """Slurm found room for all on one."""
    world.recipe["launch"] = {"processes": 2, "machines": 2}
    _launched(world, Place(count=2, local_count=2, machines=1, from_outside=True))


@other_processes_than_asked.fault
def another_strategy(world: World) -> None:
    """The user's accelerate configuration is for FSDP."""
    _launched(world, Place(count=2, local_count=2, strategy="fsdp", from_outside=True))
