"""`ftrun reproduce RUN`: what has changed since, the run again, and whether it is the same."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from ftrun.runner.batch import describe_batch, keep_batch, measure_batch
from ftrun.runner.launching.starting import describe_launch, start_again
from ftrun.runner.libraries import require_training, settle_libraries
from ftrun.runner.ranks import count_ranks, is_main, leave, share
from ftrun.runner.record import view
from ftrun.runner.record.comparison import Comparison, compare_runs
from ftrun.runner.record.digests import Facts
from ftrun.runner.record.drift import Rung, find_drift
from ftrun.runner.record.install import run_installed
from ftrun.runner.record.ladder import read_ladder
from ftrun.runner.record.lock import hides_secrets
from ftrun.runner.record.present import (
    Search,
    describe_present,
    list_foreign,
    locate_inputs,
    write_recipe,
)
from ftrun.runner.record.source import Recorded, find_recorded, read_state
from ftrun.runner.run import DONE, INTERRUPTED, NOT_READY, Site, meet, run_file
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
class Wish:
    """What is asked for."""

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


@dataclass(frozen=True)
class Scene:
    """Where it happens."""

    wish: Wish
    scratch: Path
    out: Console
    err: Console
    replaced: dict[str, str] = field(default_factory=dict)
    """Model folders of the recorded run, each with the one that was made in its place."""

    told: list[dict[str, Any]] = field(default_factory=list)
    """The outcome of each run, for JSON."""


def reproduce(reference: str, wish: Wish, *, uri: str | None, out: Console, err: Console) -> int:
    """Repeat a run, or tell what has changed since, and return the exit code: 0 equal, 4 different.

    Raises RunError where the run cannot be repeated, TrackingError where it is not found.
    """
    require_training("reproduce")
    settle_libraries()
    if not is_main():
        out.quiet = err.quiet = True
    with tempfile.TemporaryDirectory(prefix="ftrun-") as folder:
        scene = Scene(wish, Path(folder), err if wish.format == "json" else out, err)
        recorded = find_recorded(reference, uri, scene.scratch / "record")
        first = recorded
        if recorded.stages:
            first = find_recorded(next(iter(recorded.stages.values())), recorded.uri, scene.scratch / "first")
        words = _list_words(reference, wish, uri)
        if wish.install:
            return run_installed(first.folder / "requirements.txt", words, err)
        if not wish.check and (code := start_again(read_state(first.folder), words)) is not None:
            return code
        with _results_alone(wish):
            code = _reproduce_all(recorded, scene)
    leave()
    if wish.format == "json":
        out.print_json(json.dumps({"schema": 1, "runs": scene.told}))
    return code


def _list_words(reference: str, wish: Wish, uri: str | None) -> list[str]:
    """The command line that asks for this again, once the packages or the processes of the run are there."""
    options = {
        "--check": wish.check,
        "--anyway": wish.anyway,
        "--steps": wish.steps,
        "--data": wish.data,
        "--uri": uri,
        "--format": wish.format,
    }
    words = ["reproduce", reference]
    for option, value in options.items():
        words += [option] if value is True else [option, str(value)] if value else []
    return words


@contextmanager
def _results_alone(wish: Wish) -> Iterator[None]:
    """Where the result is JSON, what a run prints goes to stderr."""
    if wish.format != "json":
        yield
        return
    with redirect_stdout(sys.stderr):
        yield


def _reproduce_all(recorded: Recorded, scene: Scene) -> int:
    """A run, or the stages of a pipeline in their order, each from what was made in the place of those before it."""
    if not recorded.stages:
        return _reproduce_run(recorded, scene)
    if scene.wish.steps is not None:
        raise RunError(f"{recorded.name} is a pipeline; --steps is for one run, so name that of a stage")
    codes = []
    for number, (name, reference) in enumerate(recorded.stages.items(), 1):
        scene.err.print(f"stage {name} ({number} of {len(recorded.stages)})", style="bold")
        stage = find_recorded(reference, recorded.uri, scene.scratch / f"stage-{number}")
        codes.append(_reproduce_run(stage, scene))
        if codes[-1] not in (DONE, DRIFTED):
            return codes[-1]
    return max(codes)


def _reproduce_run(recorded: Recorded, scene: Scene) -> int:
    then = read_state(recorded.folder)
    if hides_secrets(then):
        raise RunError(
            f"a secret was taken out of the recipe of {recorded.name} when it was recorded, so it cannot run as it "
            "stands; its record shows where: ftrun/recipe.yaml"
        )
    search = Search(recorded.folder, scene.wish.data, scene.replaced, recorded.uri)
    found = locate_inputs(then, search)
    changes = {
        "output": _choose_output(then),
        "launch": describe_launch(then),
        "tracking": {"uri": recorded.uri, "experiment": recorded.experiment},
    }
    file = write_recipe(then, found, changes, scene.scratch / f"recipe-{len(scene.told)}" / "recipe.yaml")
    meet([file.recipe])
    drift = find_drift(then, describe_present(file, then, found))
    view.print_drift(scene.out, recorded.name, drift)
    if scene.wish.check:
        scene.told.append({"run": recorded.name, "run_id": recorded.run_id, "drift": view.as_data(drift)})
        return DRIFTED if any(rung.matters for rung in drift) else DONE
    if not _may_begin(recorded, then, found, drift, scene):
        scene.told.append({"run": recorded.name, "run_id": recorded.run_id, "drift": view.as_data(drift)})
        return DRIFTED
    return _train_again(recorded, then, file, scene)


def _choose_output(then: Mapping[str, Any]) -> str:
    """The recorded output folder where it is relative, or the run is still in it; else `runs` here."""
    output = Path(then["recipe"]["merged"]["output"])
    return str(output) if not output.is_absolute() or Path(then["folder"]).is_dir() else "runs"


def _may_begin(
    recorded: Recorded,
    then: Mapping[str, Any],
    found: Mapping[str, Mapping[str, Facts]],
    drift: list[Rung],
    scene: Scene,
) -> bool:
    """Whether what the run reads is here. Raises RunError where something is missing."""
    content = [one for rung in drift if rung.name in ("code", "data", "model") for one in rung.differences]
    missing = [one for one in content if one.now == "not found"]
    if missing:
        named = "; ".join(f"{one.what} ({one.then})" for one in missing)
        raise RunError(
            f"what {recorded.name} read is not on this machine: {named}. Name the folder that holds it with --data"
        )
    foreign = list_foreign(then, found, scene.replaced.values())
    if foreign and not scene.wish.anyway:
        named = ", ".join(foreign)
        scene.err.print(
            f"{named}: not what {recorded.name} read. Name the folder that holds it with --data, or go on with "
            "--anyway",
            style="bold red",
        )
        return False
    return True


def _train_again(recorded: Recorded, then: Mapping[str, Any], file: RecipeFile, scene: Scene) -> int:
    folder = share(lambda: _free_folder(Path(file.recipe.output), f"{recorded.name}-reproduced"))
    tags = {REPRODUCES: recorded.reference}
    if recorded.run_id:
        tags[PARENT_TAG] = recorded.run_id
    site = Site(folder, tags=tags, last_step=scene.wish.steps, written=file, choices=then.get("choices", []))
    scene.err.print(f"repeating {recorded.name} as {folder.name}", style="dim")
    trained = _keep_batch(then, file, scene)
    failure = ""
    with _threads(then["segments"][0]["hardware"]["threads"]):
        try:
            code = run_file(trained, site, ignore=then["ignored"], out=scene.out, err=scene.err)
        except (
            RunError
        ) as error:  # as the recorded run may have ended too: what it logged until then is compared
            code, failure = DONE, str(error)
    if code in (NOT_READY, INTERRUPTED):
        return code
    scene.replaced[str(Path(then["folder"], "model"))] = str(folder / "model")
    return share(lambda: _judge(recorded, then, folder, failure, scene))


def _keep_batch(then: Mapping[str, Any], file: RecipeFile, scene: Scene) -> RecipeFile:
    """The recipe with as many rows to an update as in the recorded run, which may have had other processes."""
    before = then["segments"][0]["hardware"].get("processes", 1)
    kept = keep_batch(file, measure_batch(then["resolved"]["training"], before))
    if kept is not file:
        scene.err.print(
            f"{before} process{'es' * (before > 1)} trained it, and now {count_ranks()}; an update keeps its rows: "
            f"{describe_batch(resolve(kept.recipe).training, count_ranks())}",
            style="yellow",
        )
    return kept


def _judge(recorded: Recorded, then: Mapping[str, Any], folder: Path, failure: str, scene: Scene) -> int:
    """Compare the run that was made with the recorded one, tell and record the outcome, and return the exit code."""
    compared = compare_runs(
        recorded.folder,
        folder,
        (read_ladder(recorded.folder), read_ladder(folder)),
        then,
        upto=None if (folder / "model").is_dir() else scene.wish.steps,
        ended=recorded.status == "FINISHED",
    )
    if failure and recorded.status == "FINISHED":
        compared = replace(compared, verdict="drifted")
    drift = find_drift(then, read_state(folder))
    result = view.summarise(recorded, folder, compared, drift, failure)
    scene.told.append(result)
    view.print_verdict(scene.out, result)
    _record_verdict(folder, result, compared, scene.err)
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
