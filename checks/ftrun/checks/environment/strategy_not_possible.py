"""The strategy needs what is not here.

Symptom: "No module named 'deepspeed'" once the data is prepared, or one process that holds everything although the
recipe says that it is divided.
Cause: `launch.strategy` is `deepspeed`, and it is not installed or there is no GPU; or it divides a model among
processes and there is one.
Fix: `pip install deepspeed`, set `launch.processes`, or remove `launch.strategy`.
Source: accelerate takes DeepSpeed for processes with devices alone (`PartialState.__init__`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.environment.more_processes_than_gpus import count_here
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtEnvironment

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("ENV010", title="the strategy has what it needs", severity="error")
def strategy_not_possible(at: AtEnvironment) -> Iterator[Finding]:
    """Tell a strategy without its package, its GPUs, or processes to divide among."""
    strategy, where = at.recipe.launch.strategy, at.where("launch.strategy")
    if strategy == "ddp":
        raise NotApplicable("each process holds the whole model")
    if max(count_here(at), at.machine.place.count, at.recipe.launch.machines) == 1:
        yield Finding(
            f"launch.strategy is {strategy}, which divides the model among processes, and the run has one.",
            "Set launch.processes, or remove launch.strategy.",
            where,
        )
    if strategy == "deepspeed" and (at.recipe.training["use_cpu"] or not at.machine.devices):
        yield Finding(
            "launch.strategy is deepspeed, which needs GPUs, and the run is on the CPU.",
            "Set launch.strategy to fsdp, which divides on the CPU too, or to ddp.",
            where,
        )
    elif strategy == "deepspeed" and find_spec("deepspeed") is None:
        yield Finding(
            "launch.strategy is deepspeed, which is not installed.",
            "Install it with `pip install deepspeed`, or set launch.strategy to fsdp.",
            where,
        )


@strategy_not_possible.fault
def deepspeed_on_the_cpu(world: World) -> None:
    """A recipe for a larger machine."""
    world.recipe["launch"] = {"processes": 2, "strategy": "deepspeed"}
    world.after(AtEnvironment, lambda at: replace(at, machine=replace(at.machine, devices=())))


@strategy_not_possible.fault
def nothing_to_divide_among(world: World) -> None:
    """launch.processes was forgotten."""
    world.recipe["launch"] = {"strategy": "fsdp"}
