"""`ftrun reproduce RUN`: what has changed since, the run again, and whether it is the same."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from rich.console import Console

from ftrun.runner.launching.starting import describe_launch, start_again
from ftrun.runner.libraries import require_training, settle_libraries
from ftrun.runner.ranks import is_main, leave
from ftrun.runner.record import view
from ftrun.runner.record.digests import Facts
from ftrun.runner.record.drift import Rung, find_drift
from ftrun.runner.record.install import run_installed
from ftrun.runner.record.lock import hides_secrets
from ftrun.runner.record.present import (
    Search,
    describe_present,
    list_foreign,
    locate_inputs,
    write_recipe,
)
from ftrun.runner.record.repetition import DRIFTED, Request, Workspace, train_again
from ftrun.runner.record.source import Recorded, find_recorded, read_state
from ftrun.runner.run import DONE, join_processes
from ftrun.schemas.errors import RunError


def reproduce(reference: str, request: Request, *, uri: str | None, out: Console, err: Console) -> int:
    """Repeat a run, or tell what has changed since, and return the exit code: 0 equal, 4 different.

    Raises RunError where the run cannot be repeated, TrackingError where it is not found.
    """
    require_training("reproduce")
    settle_libraries()
    if not is_main():
        out.quiet = err.quiet = True
    with tempfile.TemporaryDirectory(prefix="ftrun-") as folder:
        workspace = Workspace(request, Path(folder), err if request.format == "json" else out, err)
        recorded = find_recorded(reference, uri, workspace.scratch / "record")
        first = recorded
        if recorded.stages:
            first = find_recorded(
                next(iter(recorded.stages.values())), recorded.uri, workspace.scratch / "first"
            )
        words = _list_words(reference, request, uri)
        if request.install:
            return run_installed(first.folder / "requirements.txt", words, err)
        if not request.check and (code := start_again(read_state(first.folder), words)) is not None:
            return code
        with _results_alone(request):
            code = _reproduce_all(recorded, workspace)
    leave()
    if request.format == "json":
        out.print_json(json.dumps({"schema": 1, "runs": workspace.told}))
    return code


def _list_words(reference: str, request: Request, uri: str | None) -> list[str]:
    """The command line that asks for this again, once the packages or the processes of the run are there."""
    options = {
        "--check": request.check,
        "--anyway": request.anyway,
        "--steps": request.steps,
        "--data": request.data,
        "--uri": uri,
        "--format": request.format,
    }
    words = ["reproduce", reference]
    for option, value in options.items():
        words += [option] if value is True else [option, str(value)] if value else []
    return words


@contextmanager
def _results_alone(request: Request) -> Iterator[None]:
    """Where the result is JSON, what a run prints goes to stderr."""
    if request.format != "json":
        yield
        return
    with redirect_stdout(sys.stderr):
        yield


def _reproduce_all(recorded: Recorded, workspace: Workspace) -> int:
    """A run, or the stages of a pipeline in their order, each from what was made in the place of those before it."""
    if not recorded.stages:
        return _reproduce_run(recorded, workspace)
    if workspace.request.steps is not None:
        raise RunError(f"{recorded.name} is a pipeline; --steps is for one run, so name that of a stage")
    codes = []
    for number, (name, reference) in enumerate(recorded.stages.items(), 1):
        workspace.err.print(f"stage {name} ({number} of {len(recorded.stages)})", style="bold")
        stage = find_recorded(reference, recorded.uri, workspace.scratch / f"stage-{number}")
        codes.append(_reproduce_run(stage, workspace))
        if codes[-1] not in (DONE, DRIFTED):
            return codes[-1]
    return max(codes)


def _reproduce_run(recorded: Recorded, workspace: Workspace) -> int:
    then = read_state(recorded.folder)
    if hides_secrets(then):
        raise RunError(
            f"a secret was taken out of the recipe of {recorded.name} when it was recorded, so it cannot run as it "
            "stands; its record shows where: ftrun/recipe.yaml"
        )
    search = Search(recorded.folder, workspace.request.data, workspace.replaced, recorded.uri)
    found = locate_inputs(then, search)
    changes = {
        "output": _choose_output(then),
        "launch": describe_launch(then),
        "tracking": {"uri": recorded.uri, "experiment": recorded.experiment},
    }
    file = write_recipe(
        then, found, changes, workspace.scratch / f"recipe-{len(workspace.told)}" / "recipe.yaml"
    )
    join_processes([file.recipe])
    drift = find_drift(then, describe_present(file, then, found))
    view.print_drift(workspace.out, recorded.name, drift)
    if workspace.request.check:
        workspace.told.append({"run": recorded.name, "run_id": recorded.run_id, "drift": view.as_data(drift)})
        return DRIFTED if any(rung.matters for rung in drift) else DONE
    if not _may_begin(recorded, then, found, drift, workspace):
        workspace.told.append({"run": recorded.name, "run_id": recorded.run_id, "drift": view.as_data(drift)})
        return DRIFTED
    return train_again(recorded, then, file, workspace)


def _choose_output(then: Mapping[str, Any]) -> str:
    """The recorded output folder where it is relative, or the run is still in it; else `runs` here."""
    output = Path(then["recipe"]["merged"]["output"])
    return str(output) if not output.is_absolute() or Path(then["folder"]).is_dir() else "runs"


def _may_begin(
    recorded: Recorded,
    then: Mapping[str, Any],
    found: Mapping[str, Mapping[str, Facts]],
    drift: list[Rung],
    workspace: Workspace,
) -> bool:
    """Whether what the run reads is here. Raises RunError where something is missing."""
    content = [one for rung in drift if rung.name in ("code", "data", "model") for one in rung.differences]
    missing = [one for one in content if one.now == "not found"]
    if missing:
        named = "; ".join(f"{one.what} ({one.then})" for one in missing)
        raise RunError(
            f"what {recorded.name} read is not on this machine: {named}. Name the folder that holds it with --data"
        )
    foreign = list_foreign(then, found, workspace.replaced.values())
    if foreign and not workspace.request.anyway:
        named = ", ".join(foreign)
        workspace.err.print(
            f"{named}: not what {recorded.name} read. Name the folder that holds it with --data, or go on with "
            "--anyway",
            style="bold red",
        )
        return False
    return True
