"""A recorded run made again, compared number by number, and the outcome added to its record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from ftrun.runner.batch import describe_batch, keep_batch, measure_batch
from ftrun.runner.ranks import count_ranks, share
from ftrun.runner.record import view
from ftrun.runner.record.comparison import Comparison, compare_runs
from ftrun.runner.record.drift import find_drift
from ftrun.runner.record.ladder import read_ladder
from ftrun.runner.record.source import Recorded, read_state
from ftrun.runner.run import DONE, INTERRUPTED, NOT_READY, run_file
from ftrun.runner.run_folder import RunPlace
from ftrun.runner.tracking.delivered import PARENT_TAG
from ftrun.runner.tracking.ledger import (
    ARTIFACTS,
    LOCK_FILE,
    LedgerFile,
    add_upload,
    read_ledger,
    write_document,
)
from ftrun.runner.tracking.lock import hold_lock
from ftrun.runner.tracking.lookup import REPRODUCES
from ftrun.runner.tracking.pending import send_pending
from ftrun.schemas.errors import RunError, TrackingError
from ftrun.schemas.load import RecipeFile
from ftrun.schemas.resolve import resolve

DRIFTED = 4
RESULT_FILE = "reproduction.json"
LOCK_SECONDS = 60.0  # the courier of the run may still be sending


@dataclass(frozen=True)
class Request:
    """What `ftrun reproduce` is asked for."""

    check: bool = False
    """Tell what has changed, and train nothing."""

    steps: int | None = None
    """Stop after this step; the schedule stays that of the whole run."""

    data: Path | None = None
    """A folder to look for rows and models in, before the places that are recorded."""

    anyway: bool = False
    """Go on with rows or models of another content."""

    install: bool = False
    """Do it with the recorded packages, in an environment of their own."""

    format: str = "text"
    """`text`, or `json`."""


@dataclass(frozen=True)
class Workspace:
    """Where a request is carried out, and what has come of it so far."""

    request: Request
    scratch: Path
    out: Console
    err: Console
    replaced: dict[str, str] = field(default_factory=dict)
    """Model folders of the recorded run, each with the one that was made in its place."""

    told: list[dict[str, Any]] = field(default_factory=list)
    """The outcome of each run, for JSON."""


def train_again(recorded: Recorded, then: Mapping[str, Any], file: RecipeFile, workspace: Workspace) -> int:
    """Train a recorded run again by the recipe in `file`, compare both, and return the exit code."""
    folder = share(lambda: _free_folder(Path(file.recipe.output), f"{recorded.name}-reproduced"))
    tags = {REPRODUCES: recorded.reference}
    if recorded.run_id:
        tags[PARENT_TAG] = recorded.run_id
    place = RunPlace(
        folder, tags=tags, last_step=workspace.request.steps, written=file, choices=then.get("choices", [])
    )
    workspace.err.print(f"repeating {recorded.name} as {folder.name}", style="dim")
    trained = _keep_batch(then, file, workspace)
    failure = ""
    with _threads(then["segments"][0]["hardware"]["threads"]):
        try:
            code = run_file(trained, place, ignore=then["ignored"], out=workspace.out, err=workspace.err)
        except RunError as error:
            # The recorded run may have ended so too: what was logged until then is compared.
            code, failure = DONE, str(error)
    if code in (NOT_READY, INTERRUPTED):
        return code
    workspace.replaced[str(Path(then["folder"], "model"))] = str(folder / "model")
    return share(lambda: _judge(recorded, then, folder, failure, workspace))


def _keep_batch(then: Mapping[str, Any], file: RecipeFile, workspace: Workspace) -> RecipeFile:
    """The recipe with as many rows to an update as in the recorded run, which may have had other processes."""
    before = then["segments"][0]["hardware"].get("processes", 1)
    kept = keep_batch(file, measure_batch(then["resolved"]["training"], before))
    if kept is not file:
        workspace.err.print(
            f"{before} process{'es' * (before > 1)} trained it, and now {count_ranks()}; an update keeps its rows: "
            f"{describe_batch(resolve(kept.recipe).training, count_ranks())}",
            style="yellow",
        )
    return kept


def _judge(
    recorded: Recorded, then: Mapping[str, Any], folder: Path, failure: str, workspace: Workspace
) -> int:
    """Compare the run that was made with the recorded one, tell and record the outcome, and return the exit code."""
    compared = compare_runs(
        recorded.folder,
        folder,
        (read_ladder(recorded.folder), read_ladder(folder)),
        then,
        upto=None if (folder / "model").is_dir() else workspace.request.steps,
        ended=recorded.status == "FINISHED",
    )
    if failure and recorded.status == "FINISHED":
        compared = replace(compared, verdict="drifted")
    drift = find_drift(then, read_state(folder))
    result = view.summarise(recorded, folder, compared, drift, failure)
    workspace.told.append(result)
    view.print_verdict(workspace.out, result)
    _record_verdict(folder, result, compared, workspace.err)
    return DONE if compared.verdict == "exact" else DRIFTED


def _free_folder(output: Path, name: str) -> Path:
    number = 1
    while (folder := output.absolute() / f"{name}-{number}").exists():
        number += 1
    return folder


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """As many threads as the recorded run had: sums in another order may round otherwise."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _record_verdict(folder: Path, result: Mapping[str, Any], compared: Comparison, err: Console) -> None:
    """Add the outcome to the record of the run that was made, which has ended."""
    write_document(folder / RESULT_FILE, result)
    with hold_lock(folder / LOCK_FILE, LOCK_SECONDS):
        ledger = read_ledger(folder)
        assert ledger is not None
        tags = {**ledger.tags, "ftrun.reproduction": compared.verdict}
        LedgerFile(folder, add_upload(replace(ledger, tags=tags), RESULT_FILE, ARTIFACTS))
    try:
        send_pending(folder)
    except TrackingError as error:
        err.print(f"{error}; `ftrun sync {folder}` sends it later", style="yellow")
