"""`ftrun RECIPE`: check, train, ask, save, record."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from ftrun.checks.catalogue import load_checks
from ftrun.checks.report import Report
from ftrun.checks.stages import AtModel
from ftrun.runner import breakage, checkpoints, interruption, progress
from ftrun.runner.batch import describe_batch, measure_batch
from ftrun.runner.data.digest import digest_rows
from ftrun.runner.determinism import make_seeding
from ftrun.runner.guarding.events import Events
from ftrun.runner.guarding.recovery import Recovery
from ftrun.runner.interruption import Interruption, watch_signals
from ftrun.runner.launching.sharding import is_divided
from ftrun.runner.launching.starting import require_started
from ftrun.runner.libraries import require_training, settle_libraries, silence_bars
from ftrun.runner.preflight import ascend_file, report_mistakes
from ftrun.runner.printing.text import print_report
from ftrun.runner.ranks import Lost, alone, as_told, count_ranks, is_main, join, leave, share, wait
from ftrun.runner.record import ladder
from ftrun.runner.record.folder import list_datasets, log_record, make_tags, write_record
from ftrun.runner.record.lock import read_choices
from ftrun.runner.resumption import find_checkpoint, find_newest_run, go_on_with
from ftrun.runner.tracking.callback import make_callback
from ftrun.runner.tracking.run import SilentRun, TrackedRun
from ftrun.runner.tracking.store import resolve_uri
from ftrun.schemas.errors import RecipeError, RunError
from ftrun.schemas.load import RecipeFile, load_recipe
from ftrun.schemas.resolve import digest, resolve
from ftrun.schemas.sections import BaseRecipe

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

    written: RecipeFile | None = None
    """The recipe as it is recorded, where the one that trains divides the rows of an update otherwise."""

    choices: Sequence[Mapping[str, Any]] | None = None
    """What ftrun chose for the run that is repeated or gone on with; absent, it chooses."""


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
    if not is_main():
        out.quiet = err.quiet = True
    try:
        file = load_recipe(path, sets)
    except RecipeError as error:
        return refuse(path, error)
    meet([file.recipe])
    code = (
        _resume(file, ignore, out, err) if resume else run_file(file, Site(), ignore=ignore, out=out, err=err)
    )
    leave()
    return code


def refuse(path: Path, error: RecipeError) -> int:
    """Tell what is wrong with a file, and return the exit code."""
    join(on_cpu=True)
    if is_main():
        print_report(report_mistakes(path, error, load_checks()))
    wait()  # whoever started the processes may end all of them when the first one ends
    return INVALID


def meet(recipes: Sequence[BaseRecipe]) -> None:
    """Join the other processes of a run of these recipes. Raises RunError where they ask for some and none was started:
    `ftrun` starts them, and who calls Python has to."""
    if count_ranks() == 1:
        for recipe in recipes:
            require_started(recipe.launch)
        return
    import torch

    settings = [resolve(one).training for one in recipes]
    on_cpu = not torch.cuda.is_available() or any(one["use_cpu"] for one in settings)
    join(on_cpu, settings[0]["ddp_backend"], max(one["ddp_timeout"] for one in settings))


def _resume(file: RecipeFile, ignore: Mapping[str, str], out: Console, err: Console) -> int:
    """Go on with the newest run of a recipe, with the rows to an update that it had."""
    folder = share(lambda: find_newest_run(file))
    checkpoint = share(lambda: find_checkpoint(folder, file, err))
    choices = share(lambda: read_choices(folder))
    site = Site(folder, checkpoint, written=file, choices=choices)
    return run_file(go_on_with(file, checkpoint, err), site, ignore=ignore, out=out, err=err)


def run_file(file: RecipeFile, site: Site, *, ignore: Mapping[str, str], out: Console, err: Console) -> int:
    """Check and train a recipe that was read, and return the exit code. A new folder is made when the trainer
    is built, and is gone again where the checks refuse the run."""
    share(lambda: require_writable(Path(file.recipe.output)))
    made: list[Path] = []

    def make_folder() -> Path:
        if site.folder is None:
            made.append(make_run_folder(Path(file.recipe.output), file.recipe.name))
            return made[-1]
        if not site.folder.exists():
            made.append(site.folder)
            site.folder.mkdir(parents=True)
        return site.folder

    taken: list[Path] = []

    def take_folder(_: RecipeFile) -> Path:
        taken.append(share(make_folder))
        return taken[-1]

    def announce(stage: str) -> None:
        err.print(f"checking the {stage} …", style="dim")
        if stage == "data":
            silence_bars()

    ascent = ascend_file(
        file,
        checks=load_checks(),
        folder=take_folder,
        ignore=ignore,
        needed=AtModel,
        announce=announce,
        recorded=site.choices,
    )
    if is_main():
        print_report(ascent.report)
    if not ascent.report.ok:
        for folder in made:
            shutil.rmtree(folder)
        wait()
        return NOT_READY
    return _train(cast(AtModel, ascent.at), ascent.report, site, taken[-1], out, err)


def require_writable(output: Path) -> None:
    """Raises RunError where run folders cannot be made in `output`, before the minutes that checks may take."""
    place = output.absolute()
    while not place.exists():
        place = place.parent
    if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        why = (
            "may not be written to, or is on a disk that is mounted for reading"
            if place.is_dir()
            else "is a file"
        )
        raise RunError(f"runs cannot be kept in {output}: {place} {why}. Name another folder with `output`")


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


def _train(at: AtModel, report: Report, site: Site, folder: Path, out: Console, err: Console) -> int:
    file = site.written or at.file
    written = replace(at, recipe=resolve(file.recipe), file=file)
    training = at.recipe.training
    origin = checkpoints.Origin(
        digest(written.recipe),
        digest_rows(at.train),
        training["save_only_model"],
        count_ranks(),
        measure_batch(training, count_ranks()),
    )
    if site.checkpoint is not None:
        checkpoints.require_rows(site.checkpoint, origin.rows)
    stop = Interruption()
    checkpoint = site.checkpoint
    run = start_in_main(lambda: _begin(written, report, site, folder))
    begun = "" if checkpoint is None else f", going on from {checkpoint.name}"
    shared = "" if count_ranks() == 1 else f" of {describe_batch(training, count_ranks())}"
    err.print(f"training {folder.name}: {at.steps:,} steps{shared}{begun}", style="dim")
    events = Events(run, folder, err)

    def prepare(at: AtModel) -> None:
        at.trainer.add_callback(checkpoints.make_callback(at.trainer, origin))
        at.trainer.add_callback(make_callback(run))
        at.trainer.add_callback(progress.make_callback(err, events.count))
        at.trainer.add_callback(interruption.make_callback(stop))
        at.trainer.add_callback(ladder.make_callback(run, folder))
        if at.recipe.method != "ppo":  # whose processes draw in their own ways
            at.trainer.add_callback(make_seeding())
        if site.last_step is not None:
            at.trainer.add_callback(interruption.make_end(site.last_step))

    with watch_signals(stop), run:  # the end of a run is not cut short by a signal either
        try:
            at = Recovery(at, folder, events, prepare).train(checkpoint)
        except Lost as error:
            raise breakage.explain(error, at.trainer.state.global_step, run, folder) from error
        except RunError as error:
            raise as_told(error) from error.__cause__
        except (
            Exception
        ) as error:  # the build boundary of training: torch, TRL and drivers raise what they like
            raise breakage.explain(error, at.trainer.state.global_step, run, folder) from error
        if stop.heeded:
            return _leave(at, run, folder, out)
        if site.last_step is None or site.last_step >= at.steps:
            _finish(at, run, folder, out)
        out.print(run.finish("FINISHED"))
    return DONE


def start_in_main(begin: Callable[[], TrackedRun]) -> TrackedRun:
    """The tracked run that `begin` starts in the main process; in the others one that records nothing."""
    begun: list[TrackedRun] = []
    share(lambda: begun.append(begin()))
    return begun[0] if begun else SilentRun()


def _begin(at: AtModel, report: Report, site: Site, folder: Path) -> TrackedRun:
    """Write and track what describes the run."""
    for stale in folder.glob("error-*.txt"):  # of another process, when the run was begun before
        stale.unlink()
    record = write_record(at, report, folder, site.checkpoint)
    run = TrackedRun.start(
        resolve_uri(at.recipe.tracking.uri, Path(at.recipe.output)),
        at.recipe.tracking.experiment or at.recipe.name,
        site.name or folder.name,
        folder,
        params=at.recipe.model_dump(mode="json"),
        tags={**make_tags(at, report, folder), **site.tags},
        datasets=list_datasets(at),
        parent=site.parent,
    )
    log_record(run, folder, record)
    return run


def _leave(at: AtModel, run: TrackedRun, folder: Path, out: Console) -> int:
    checkpoint = folder / "checkpoints" / f"checkpoint-{at.trainer.state.global_step}"
    run.set_tags({"ftrun.failure": "interrupted"})
    out.print(f"interrupted at step {at.trainer.state.global_step}; the checkpoint is {checkpoint}")
    out.print("go on with the same command and --resume")
    out.print(run.finish("KILLED"))
    return INTERRUPTED


def _finish(at: AtModel, run: TrackedRun, folder: Path, out: Console) -> None:
    """Save the model, which may be in parts in all processes; the main one asks it, and says what came of it."""
    at.trainer.save_model(str(folder / "model"))
    share(lambda: _conclude(at, run, folder, out))


def _conclude(at: AtModel, run: TrackedRun, folder: Path, out: Console) -> None:
    model = folder / "model"
    # A pickle of the arguments, which no one should have to load, with any token in clear.
    (model / "training_args.bin").unlink(missing_ok=True)
    ladder.conclude_ladder(run, folder)
    method = import_module(f"ftrun.runner.methods.{at.recipe.method}")
    step = at.trainer.state.global_step
    began = time.monotonic()
    metrics: dict[str, float] = {}
    table: list[dict[str, Any]] = []
    if not is_divided(at.trainer.model):
        with alone():
            metrics, table = method.ask(at)
    elif at.eval is not None:
        out.print(
            "the model is in parts, so it is not asked about the rows held out; `ftrun chat` asks the saved one"
        )
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
