"""`launch:` of a recipe: the processes that train, and what each of them holds."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ftrun.schemas.section import Section

Strategy = Literal["ddp", "fsdp", "deepspeed"]


class Launch(Section):
    """The processes that train, one for each GPU, and what each of them holds."""

    processes: int | None = Field(default=None, ge=1)
    """All processes of the run, on all machines. Absent: one where `ftrun` starts it, and as many as torchrun,
    `accelerate launch` or srun starts; a number that differs from theirs is an error. Each takes
    `per_device_train_batch_size` rows at a time, so the effective batch grows with it."""

    machines: int = Field(default=1, ge=1)
    """Machines that the processes are spread over evenly. Several are started by a launcher that reaches them, such
    as srun; `ftrun launch` writes the script."""

    strategy: Strategy = "ddp"
    """What each process holds. `ddp`: the whole model. `fsdp`: its share of the weights, gradients and optimizer
    (FSDP2), with options in `training.fsdp_config`. `deepspeed`: what `training.deepspeed` says."""

    @model_validator(mode="after")
    def _spread_evenly(self) -> Launch:
        if self.machines > (self.processes or self.machines) or (self.processes or 0) % self.machines:
            raise ValueError(
                f"{self.processes} processes cannot be spread evenly over {self.machines} machines; "
                "`processes` counts those of all machines"
            )
        return self

    @property
    def per_machine(self) -> int:
        """Processes on each machine; 1 where their number is left open."""
        return (self.processes or self.machines) // self.machines
