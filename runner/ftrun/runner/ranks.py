"""The processes of a run, which torch calls ranks: which of them this is, and how they come to one decision.

Whoever starts a process says in its environment which one it is (RANK, LOCAL_RANK, WORLD_SIZE, as torchrun does). A run
of one process has none of them set, and every function here is then free: nothing is imported, nothing is sent.
What ranks tell each other goes over gloo, on the CPU: a GPU is neither needed nor waited for.
"""

from __future__ import annotations

import functools
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

from ftrun.schemas.errors import FtrunError, MissingExtra, RecipeError, RunError

T = TypeVar("T")
Failure = TypeVar("Failure", bound=FtrunError)

TOLD = "The main process tells of it."

PATIENCE = timedelta(days=7)
"""How long a process waits for another's word: the main one may ask the model for hours while the others wait.
One that has ended is noticed at once, by its connection."""

LOST = re.compile(
    r"gloo|nccl|processgroup|connection (?:was )?(?:closed|reset)|broken pipe|recvvalue|socket", re.IGNORECASE
)
"""What torch says where another process does not answer any more."""


class Address(NamedTuple):
    """Where a process is."""

    host: str
    pid: int


class Lost(RunError):
    """Another process of the run does not answer any more."""


class Apart(RunError):
    """The processes of the run have come to different places: something failed in one of them."""


def count_ranks() -> int:
    """How many processes the run has. Raises RunError where the environment says so of no process of a run."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count > 1 and "RANK" not in os.environ:
        raise RunError(
            f"WORLD_SIZE is {count} in the environment and RANK is not set, as a launcher would do: unset WORLD_SIZE, "
            "or start the run with launch.processes or a launcher"
        )
    return count


def read_rank() -> int:
    """Which of them this is, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this is the process that prints, writes and records."""
    return read_rank() == 0


def join(on_cpu: bool, backend: str | None = None, seconds: int = 1800) -> None:
    """Meet the other processes, once. On a GPU each takes the one of its LOCAL_RANK. Gradients go over `backend`
    (absent: NCCL, and gloo on the CPU), and are waited for as long as `seconds`."""
    if count_ranks() > 1:
        from accelerate import PartialState

        named = {} if backend is None else {"backend": backend}
        PartialState(cpu=on_cpu, timeout=timedelta(seconds=seconds), **named)
        _list_addresses()


def leave() -> None:
    """Part from the other processes at the end of a run, so that none of them takes this for a loss."""
    if count_ranks() > 1:
        import torch.distributed

        torch.distributed.destroy_process_group()


def gather(value: T, what: str = "") -> list[T]:
    """What every process has, in order of rank. All of them have to call; `value` has to be picklable.

    `what` names the place: where processes have come to different ones, all raise Apart. Raises Lost where one does
    not answer any more.
    """
    if count_ranks() == 1:
        return [value]
    import torch.distributed

    told: list[Any] = [None] * count_ranks()
    with _watching():
        torch.distributed.all_gather_object(told, (what, value), group=_control_group())
    places = [place for place, _ in told]
    if len(set(places)) > 1:
        where = "; ".join(f"process {rank} at {place or 'a word'}" for rank, place in enumerate(places))
        raise Apart(f"the processes of the run have come apart: {where}")
    return [one for _, one in told]


def any_says(flag: bool) -> bool:
    """Whether `flag` holds in some process: one number is sent, less than `gather` sends. Raises Lost."""
    if count_ranks() == 1:
        return flag
    import torch

    said = torch.tensor(int(flag))
    with _watching():
        torch.distributed.all_reduce(said, torch.distributed.ReduceOp.MAX, group=_control_group())
    return bool(said)


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
        except (RecipeError, MissingExtra, OSError) as error:  # which cannot be sent
            failed = RunError(str(error))
        except FtrunError as error:
            failed = error
    told, trouble = gather((made, failed), getattr(make, "__qualname__", "sharing"))[0]
    if trouble is not None:
        raise as_told(trouble)
    return told  # type: ignore[return-value]  # made where nothing failed


def as_told(error: Failure) -> Failure:
    """An error that all processes raise, or that is another's: the main one tells it, and `is_told` holds here."""
    if not is_main():
        error.add_note(TOLD)
    return error


def is_told(error: BaseException) -> bool:
    """Whether the main process tells of an error."""
    return TOLD in getattr(error, "__notes__", ())


def wait() -> None:
    """Return when every process has called."""
    gather(None, "waiting")


@contextmanager
def alone() -> Iterator[None]:
    """Within it this process is on its own, as in a run of one: what accelerate, transformers and TRL would gather from
    all comes from this one, so that no other need do the same at the same time."""
    if count_ranks() == 1:
        yield
        return
    from accelerate.state import AcceleratorState, DistributedType, PartialState

    states = [one._shared_state for one in (PartialState, AcceleratorState) if one._shared_state]
    before = [dict(one) for one in states]
    for one in states:
        one.update(distributed_type=DistributedType.NO, num_processes=1, process_index=0)
    try:
        yield
    finally:
        for one, kept in zip(states, before, strict=True):
            one.update(kept)


def is_loss(error: BaseException) -> bool:
    """Whether an error says that another process does not answer any more."""
    return isinstance(error, Lost) or (isinstance(error, RuntimeError) and bool(LOST.search(str(error))))


def list_ended(seconds: float = 5.0) -> list[int]:
    """The other processes on this machine that have ended, by rank. Waits up to `seconds` for the first: a
    connection is closed a moment before its process is gone."""
    import psutil

    here, deadline = socket.gethostname(), time.monotonic() + seconds
    while True:
        ended = [
            rank
            for rank, one in enumerate(_list_addresses())
            if one.host == here and rank != read_rank() and not _is_running(psutil, one.pid)
        ]
        if ended or time.monotonic() > deadline:
            return ended
        time.sleep(0.1)


def is_spread() -> bool:
    """Whether the processes of the run are on several machines."""
    return len({one.host for one in _list_addresses()}) > 1 if count_ranks() > 1 else False


def _is_running(psutil: Any, pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextmanager
def _watching() -> Iterator[None]:
    """Raise Lost for what torch raises where a process is gone."""
    try:
        yield
    except RuntimeError as error:
        if not is_loss(error):
            raise
        raise Lost("another process of the run does not answer any more") from error


@functools.cache
def _list_addresses() -> list[Address]:
    """Where each process is, by rank."""
    return gather(Address(socket.gethostname(), os.getpid()), "meeting")


@functools.cache
def _control_group() -> Any:
    """The group over which ranks talk to each other about the run, apart from the one that gradients go over."""
    import torch.distributed

    return torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
