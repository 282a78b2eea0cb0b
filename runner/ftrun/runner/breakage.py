"""What a run that broke off tells: what happened, where the traceback is, and what is left to go on from."""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Iterator
from pathlib import Path

from ftrun.runner import checkpoints
from ftrun.runner.ranks import as_told, count_ranks, is_loss, is_main, is_spread, list_ended, read_rank
from ftrun.runner.tracking.run import TrackedRun
from ftrun.runner.tracking.secrets import redact_text
from ftrun.schemas.errors import RunError, first_line

FULL = 64_000_000
"""Bytes left on a disk that is called full: some files of a checkpoint may still have fitted."""


def explain(error: Exception, step: int, run: TrackedRun, folder: Path) -> RunError:
    """The error that a run ends with which broke off at a step. Writes the traceback into its folder.

    Where another process is gone, that is the cause, and what this one stumbled over is not told; what the other one
    left in `error-<rank>.txt` is.
    """
    ended = list_ended() if count_ranks() > 1 and is_loss(error) else []
    lost = bool(ended) or (is_loss(error) and is_spread())
    if not is_main():
        stopped = RunError(f"process {read_rank()} stopped at step {step} with {first_line(error)}")
        if lost:
            return as_told(stopped)
        (folder / name_file(read_rank())).write_text(_trace(), encoding="utf-8")
        return stopped
    checkpoints.remove_unfinished(folder)  # on a full disk this makes room for what is written now
    parts = [f"training stopped at step {step}, since {_describe_loss(folder, ended)}"] if lost else []
    parts = parts or [f"training stopped with {first_line(error)} at step {step}"]
    if (free := shutil.disk_usage(folder).free) < FULL:
        parts.append(f"the disk of {folder} is full, with {free / 1e6:.1f} MB left")
    parts += _write_trace(run, folder)
    if kept := checkpoints.list_checkpoints(folder):
        parts.append(
            f"checkpoint-{max(kept)} is kept: once the cause is gone, the same command with --resume goes on"
        )
    return RunError("; ".join(parts))


def name_file(rank: int) -> str:
    """The file of a traceback in the run folder."""
    return f"error-{rank}.txt" if rank else "error.txt"


def _describe_loss(folder: Path, ended: list[int]) -> str:
    for rank in range(1, count_ranks()):
        file = folder / name_file(rank)
        if file.is_file():
            return f"process {rank} failed with {file.read_text(encoding='utf-8').strip().splitlines()[-1]}"
    if not ended:
        return "a process on another machine, or the way to it, does not answer any more"
    who = f"process {ended[0]}" if len(ended) == 1 else f"processes {', '.join(map(str, ended))}"
    return f"{who} ended without a word: killed, by hand or by the system for memory, or crashed"


def _write_trace(run: TrackedRun, folder: Path) -> Iterator[str]:
    """Write the traceback into the run folder, for MLflow too, and say where those of all processes are."""
    try:
        (folder / name_file(0)).write_text(_trace(), encoding="utf-8")
        files = [file for rank in range(count_ranks()) if (file := folder / name_file(rank)).is_file()]
        for file in files:
            run.log_artifact(file)
        yield f"the traceback is in {' and '.join(map(str, files))}"
    except OSError as why:
        yield f"the traceback cannot be written: {why}"


def _trace() -> str:
    return redact_text(traceback.format_exc())
