"""The device has not enough memory for a step.

Symptom: the run ends with an out-of-memory error, often hours in, at the first batch of long rows.
Cause: the micro-batch is too large for the longest rows, or another process takes memory of the same device.
Fix: halve `training.per_device_train_batch_size` and double `training.gradient_accumulation_steps`: the effective batch
stays what it is. Where that is not enough, `training.gradient_checkpointing: true`.
Prevention: preflight takes a step on the longest batch; look at `ftrun plan`.
"""

from __future__ import annotations

from collections.abc import Iterator

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.training import AtFailure


@check("GUARD009", title="steps fit into memory")
def memory_ran_out(at: AtFailure) -> Iterator[Finding]:
    import torch

    on_cpu = isinstance(at.error, RuntimeError) and "DefaultCPUAllocator: can't allocate" in str(at.error)
    if isinstance(at.error, torch.OutOfMemoryError | MemoryError) or on_cpu:
        batch = at.recipe.training["per_device_train_batch_size"]
        yield Finding(
            f"Memory ran out behind step {at.step}, with a micro-batch of {batch} rows.",
            "Halve training.per_device_train_batch_size and double training.gradient_accumulation_steps.",
            at.where("training.per_device_train_batch_size"),
        )
