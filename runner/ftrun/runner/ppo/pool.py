"""What the processes of a run know together: a rollout is one, however many processes answer its prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch.distributed
from torch import Tensor

from ftrun.runner.ranks import gather

T = TypeVar("T")


@dataclass(frozen=True)
class Pool:
    """The processes that a statistic is over. With one, each method gives back what it was given."""

    processes: int = 1

    def sum(self, values: Tensor) -> Tensor:
        """The sum over processes, on the device; nothing waits for it."""
        if self.processes == 1:
            return values
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    def gather(self, value: T) -> list[T]:
        """What each process has in main memory, in order of rank."""
        return [value] if self.processes == 1 else gather(value)


ALONE = Pool()
