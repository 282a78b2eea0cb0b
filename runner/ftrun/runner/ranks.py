"""The processes of a run, which torch calls ranks: which of them this is, and how they come to one decision.

Whoever starts a process says in its environment which one it is (RANK, LOCAL_RANK, WORLD_SIZE, as torchrun does). A run
of one process has none of them set, and every function here is then free: nothing is imported, nothing is sent.
What ranks tell each other goes over gloo, on the CPU: a GPU is neither needed nor waited for.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, TypeVar

from ftrun.schemas.errors import FtrunError, RunError

T = TypeVar("T")


def count_ranks() -> int:
    """How many processes the run has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def read_rank() -> int:
    """Which of them this is, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this is the process that prints, writes and records."""
    return read_rank() == 0


def join(on_cpu: bool) -> None:
    """Meet the other processes, once. On a GPU each takes the one of its LOCAL_RANK."""
    if count_ranks() > 1:
        from accelerate import PartialState

        PartialState(cpu=on_cpu)
        _control_group()


def gather(value: T) -> list[T]:
    """What every process has, in order of rank. All of them have to call; `value` has to be picklable."""
    if count_ranks() == 1:
        return [value]
    import torch.distributed

    values: list[Any] = [None] * count_ranks()
    torch.distributed.all_gather_object(values, value, group=_control_group())
    return values


def share(make: Callable[[], T]) -> T:
    """What `make` returns in the main process, in all of them; the others do not call it. Where it raises, it
    raises in all: an error of ftrun's as it is, another as RunError."""
    if count_ranks() == 1:
        return make()
    made: T | None = None
    failed: FtrunError | None = None
    if is_main():
        try:
            made = make()
        except FtrunError as error:
            failed = error
        except OSError as error:
            failed = RunError(str(error))
    told, trouble = gather((made, failed))[0]
    if trouble is not None:
        raise trouble
    return told  # type: ignore[return-value]  # made where nothing failed


def wait() -> None:
    """Return when every process has called."""
    gather(None)


@functools.cache
def _control_group() -> Any:
    """The group over which ranks talk to each other about the run, apart from the one that gradients go over."""
    import torch.distributed

    return torch.distributed.new_group(backend="gloo")
