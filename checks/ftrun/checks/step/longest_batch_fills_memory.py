"""A batch of the longest rows does not fit into the memory of the device.

Symptom: `CUDA out of memory` in the middle of an epoch, hours after the start.
Cause: the first batches were short; memory grows with the longest row of a batch, and long rows come at random.
Fix: halve `training.per_device_train_batch_size` and double `training.gradient_accumulation_steps`, set
`training.gradient_checkpointing: true`, or lower `training.max_length`.
Prevention: look at the lengths that `ftrun preflight` shows; a few outliers may be worth cutting.
Source: a forward and backward pass on as many of the longest rows as a batch holds, with the optimizer's state in
memory; a peak over 92 % of the device is a warning, since allocators need room to move. CUDA devices alone.
axolotl#1742.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.experiments import LongestBatch
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtStep
from ftrun.checks.trials import made

if TYPE_CHECKING:
    from ftrun.checks.testing import World

CLOSE = 0.92


@check("TRAIN035", title="a batch of the longest rows fits into memory", methods=("sft",))
def longest_batch_fills_memory(at: AtStep) -> Iterator[Finding]:
    longest = made(at, "longest")
    batch = f"{longest.rows} rows of up to {longest.tokens} tokens"
    fix = (
        "Halve training.per_device_train_batch_size and double training.gradient_accumulation_steps, set "
        "training.gradient_checkpointing to true, or lower training.max_length."
    )
    where = at.where("training.per_device_train_batch_size")
    if longest.error is not None:
        first = str(longest.error).splitlines() or ["no text"]
        yield Finding(
            message=f"A step on the longest batch, {batch}, fails with {type(longest.error).__name__}: {first[0]}",
            fix=fix,
            where=where,
        )
    elif longest.peak > CLOSE * longest.total:
        yield Finding(
            message=f"A step on the longest batch, {batch}, takes {longest.peak / 1e9:.1f} of the device's "
            f"{longest.total / 1e9:.1f} GB.",
            fix=fix,
            where=where,
            severity="warning",
        )


@longest_batch_fills_memory.fault
def memory_runs_out(world: World) -> None:
    def damage(at: AtStep) -> AtStep:
        import torch

        error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        longest = LongestBatch(rows=4, tokens=4096, peak=79 * 10**9, total=80 * 10**9, error=error)
        return replace(at, experiments=replace(at.experiments, longest=longest))

    world.after(AtStep, damage)


@longest_batch_fills_memory.fault
def memory_is_nearly_full(world: World) -> None:
    def damage(at: AtStep) -> AtStep:
        longest = LongestBatch(rows=4, tokens=4096, peak=78 * 10**9, total=80 * 10**9)
        return replace(at, experiments=replace(at.experiments, longest=longest))

    world.after(AtStep, damage)
