"""`ftrun RECIPE`: check, train, ask, save, record."""

from __future__ import annotations

import json
import shutil
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import cast

from rich.console import Console

from ftrun.checks.catalogue import load_checks
from ftrun.checks.report import Report
from ftrun.checks.stages import AtModel
from ftrun.runner import checkpoints, interruption, progress
from ftrun.runner.data.digest import digest_rows
from ftrun.runner.guarding.events import Events
from ftrun.runner.guarding.recovery import Recovery
from ftrun.runner.interruption import Interruption, watch_signals
from ftrun.runner.libraries import require_training, settle_libraries, silence_bars
from ftrun.runner.preflight import ascend_file, report_mistakes
from ftrun.runner.printing.text import print_report
from ftrun.runner.record import ladder
from ftrun.runner.record.folder import DIGEST_FILE, list_datasets, log_record, make_tags, write_record
from ftrun.runner.reuse import STATE_FILE
from ftrun.runner.tracking.callback import make_callback
from ftrun.runner.tracking.run import TrackedRun
from ftrun.runner.tracking.secrets import redact_text
from ftrun.runner.tracking.store import resolve_uri
from ftrun.schemas.errors import RecipeError, RunError, first_line
from ftrun.schemas.load import RecipeFile, load_recipe
from ftrun.schemas.resolve import digest, resolve

FULL = 64_000_000
"""Bytes left on a disk that is called full: some files of a checkpoint may still have fitted."""

DONE, INVALID, NOT_READY, INTERRUPTED = 0, 2, 3, 130


@dataclass(frozen=True)
class Site:
    """Where a run writes, and what it is part of."""

    folder: Path | None = None
    """The run folder; absent, a new one in the recipe's output."""

    checkpoint: Path | None = None
    """The checkpoint in that folder that the run goes on from."""

    name: str | None = None
    """Name of the MLflow run; absent, that of the folder."""

    parent: Path | None = None
    """Folder of the run that this one is a child of."""

    tags: Mapping[str, str] = field(default_factory=dict)
    """Further tags of the MLflow run."""

    last_step: int | None = None
    """The step after which the run ends, without changing its schedule: no model is kept of it then."""


def run_recipe(
    path: Path,
    *,
    sets: Sequence[str],
    ignore: Mapping[str, str],
    out: Console,
    err: Console,
    resume: bool = False,
) -> int:
    """Train a recipe and return the exit code. Results go to `out`, progress to `err`.

    With `resume`, the newest run of this recipe goes on from its last checkpoint, in the same folder and the
    same MLflow run.
    """
    require_training(str(path))
    settle_libraries()
    try:
        file = load_recipe(path, sets)
    except RecipeError as error:
        print_report(report_mistakes(path, error, load_checks()))
        return INVALID
    site = Site()
    if resume:
        folder = find_newest_run(file)
        site = Site(folder, find_checkpoint(folder, file, err))
    return run_file(file, site, ignore=ignore, out=out, err=err)


def run_file(file: RecipeFile, site: Site, *, ignore: Mapping[str, str], out: Console, err: Console) -> int:
    """Check and train a recipe that was read, and return the exit code. A new folder is made when the trainer
    is built, and is gone again where the checks refuse the run."""
    made: list[Path] = []

    def take_folder(file: RecipeFile) -> Path:
        if site.folder is None:
            made.append(make_run_folder(Path(file.recipe.output), file.recipe.name))
            return made[-1]
        if not site.folder.exists():
            made.append(site.folder)
            site.folder.mkdir(parents=True)
        return site.folder

    def announce(stage: str) -> None:
        err.print(f"checking the {stage} …", style="dim")
        if stage == "data":
            silence_bars()

    ascent = ascend_file(
        file, checks=load_checks(), folder=take_folder, ignore=ignore, needed=AtModel, announce=announce
    )
    print_report(ascent.report)
    if not ascent.report.ok:
        for folder in made:
            shutil.rmtree(folder)
        return NOT_READY
    folder = site.folder or made[-1]
    return _train(cast(AtModel, ascent.at), ascent.report, site, folder, out, err)


def make_run_folder(output: Path, name: str) -> Path:
    """A new folder `<output>/<name>-<n>`, with the first n that is free."""
    output.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = output.absolute() / f"{name}-{number}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def find_newest_run(file: RecipeFile) -> Path:
    """The folder of the newest run of a recipe. Raises RunError where there is none."""
    output = Path(file.recipe.output).absolute()
    runs = [one for one in output.glob(f"{file.recipe.name}-*") if one.name.rpartition("-")[2].isdigit()]
    runs = [one for one in runs if one.name.rpartition("-")[0] == file.recipe.name]
    runs = [
        one for one in runs if not (one / STATE_FILE).exists()
    ]  # a pipeline may be called as the recipe is
    if not runs:
        raise RunError(f"there is no run of {file.recipe.name} in {output} to resume")
    return max(runs, key=_number)


def find_checkpoint(folder: Path, file: RecipeFile, err: Console) -> Path:
    """The last good checkpoint in a run folder of the recipe; those that are passed over are told.

    Raises RunError where there is none, or where the recipe has changed since: a changed rate or
    batch would be dropped in silence, since the checkpoint's own state wins.
    """
    kept, own = folder / DIGEST_FILE, digest(resolve(file.recipe))
    if not kept.is_file() or kept.read_text(encoding="utf-8").strip() != own:
        raise RunError(
            f"the recipe is not the one that {folder.name} ran with, kept in {folder / 'recipe.resolved.yaml'}; "
            "a run is resumed with the same settings, or started anew without --resume"
        )
    return checkpoints.find_good_checkpoint(folder, own, lambda told: err.print(told, style="yellow"))


def _number(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _train(at: AtModel, report: Report, site: Site, folder: Path, out: Console, err: Console) -> int:
    origin = checkpoints.Origin(
        digest(at.recipe), digest_rows(at.train), at.recipe.training["save_only_model"]
    )
    if site.checkpoint is not None:
        checkpoints.require_rows(site.checkpoint, origin.rows)
    uri = resolve_uri(at.recipe.tracking.uri, Path(at.recipe.output))
    stop = Interruption()
    checkpoint = site.checkpoint
    record = write_record(at, report, folder, checkpoint)
    run = TrackedRun.start(
        uri,
        at.recipe.tracking.experiment or at.recipe.name,
        site.name or folder.name,
        folder,
        params=at.recipe.model_dump(mode="json"),
        tags={**make_tags(at, report, folder), **site.tags},
        datasets=list_datasets(at),
        parent=site.parent,
    )
    log_record(run, folder, record)
    begun = "" if checkpoint is None else f", going on from {checkpoint.name}"
    err.print(f"training {folder.name}: {at.steps:,} steps{begun}", style="dim")
    events = Events(run, folder, err)

    def prepare(at: AtModel) -> None:
        at.trainer.add_callback(checkpoints.make_callback(at.trainer, origin))
        at.trainer.add_callback(make_callback(run))
        at.trainer.add_callback(progress.make_callback(err, events.count))
        at.trainer.add_callback(interruption.make_callback(stop))
        at.trainer.add_callback(ladder.make_callback(run, folder))
        if site.last_step is not None:
            at.trainer.add_callback(interruption.make_end(site.last_step))

    with run, watch_signals(stop):
        try:
            at = Recovery(at, folder, events, prepare).train(checkpoint)
        except RunError:
            raise
        except (
            Exception
        ) as error:  # the build boundary of training: torch, TRL and drivers raise what they like
            raise RunError(_explain(error, at.trainer.state.global_step, run, folder)) from error
        if stop.asked:
            return _leave(at, run, folder, out)
        if site.last_step is None or site.last_step >= at.steps:
            _finish(at, run, folder, out)
        out.print(run.finish("FINISHED"))
    return DONE


def _explain(error: Exception, step: int, run: TrackedRun, folder: Path) -> str:
    """What a run that broke off tells: what happened, where the traceback is, and what is left to go on from."""
    checkpoints.remove_unfinished(folder)  # on a full disk this makes room for what is written now
    parts = [f"training stopped with {first_line(error)} at step {step}"]
    if (free := shutil.disk_usage(folder).free) < FULL:
        parts.append(f"the disk of {folder} is full, with {free / 1e6:.1f} MB left")
    try:
        (folder / "error.txt").write_text(redact_text(traceback.format_exc()), encoding="utf-8")
        run.log_artifact(folder / "error.txt")
        parts.append(f"the traceback is in {folder / 'error.txt'}")
    except OSError as why:
        parts.append(f"the traceback cannot be written: {why}")
    if kept := checkpoints.list_checkpoints(folder):
        parts.append(
            f"checkpoint-{max(kept)} is kept: once the cause is gone, the same command with --resume goes on"
        )
    return "; ".join(parts)


def _leave(at: AtModel, run: TrackedRun, folder: Path, out: Console) -> int:
    checkpoint = folder / "checkpoints" / f"checkpoint-{at.trainer.state.global_step}"
    run.set_tags({"ftrun.failure": "interrupted"})
    out.print(f"interrupted at step {at.trainer.state.global_step}; the checkpoint is {checkpoint}")
    out.print("go on with the same command and --resume")
    out.print(run.finish("KILLED"))
    return INTERRUPTED


def _finish(at: AtModel, run: TrackedRun, folder: Path, out: Console) -> None:
    """Save the model, ask it, and say what came of it."""
    model = folder / "model"
    at.trainer.save_model(str(model))
    # A pickle of the arguments, which no one should have to load, with any token in clear.
    (model / "training_args.bin").unlink(missing_ok=True)
    ladder.conclude_ladder(run, folder)
    method = import_module(f"ftrun.runner.methods.{at.recipe.method}")
    step = at.trainer.state.global_step
    began = time.monotonic()
    metrics, table = method.ask(at)
    if metrics:
        run.log(step, metrics)
        if table:
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in table)
            run.log_text("".join(lines), "answers.jsonl")
            run.log_table(table, "answers.json")
        took = f" ({time.monotonic() - began:.1f} s)"
        for name, value in metrics.items():
            out.print(_tell(name, value, len(table)) + took)
            took = ""
    out.print(f"the model is in {model}")


def _tell(name: str, value: float, rows: int) -> str:
    """A figure of the held-out rows for people: shares in percent, of `rows` where answers were generated."""
    shown = name.removeprefix("eval/").replace("_", " ")
    if name.endswith(("match", "generated", "generated_before")):
        return f"{shown}: {value:.1%} of {rows} held-out rows"
    return f"{shown}: {value:.1%}" if name.endswith("accuracy") else f"{shown}: {value:.4g}"
