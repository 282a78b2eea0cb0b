"""`ftrun RECIPE`: check, train, ask, save, record."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import cast

from rich.console import Console

from ftrun.checks.catalogue import load_checks
from ftrun.checks.report import Report
from ftrun.checks.stages import AtModel
from ftrun.runner import breakage, checkpoints, interruption, progress
from ftrun.runner.batch import describe_batch, measure_batch
from ftrun.runner.conclusion import conclude
from ftrun.runner.data.digest import digest_rows
from ftrun.runner.determinism import make_seeding
from ftrun.runner.guarding.events import Events
from ftrun.runner.guarding.recovery import Recovery
from ftrun.runner.interruption import Interruption, watch_signals
from ftrun.runner.launching.starting import require_started
from ftrun.runner.libraries import require_training, settle_libraries, silence_bars
from ftrun.runner.preflight import ascend_file, report_mistakes
from ftrun.runner.printing.text import print_report
from ftrun.runner.ranks import Lost, as_told, count_ranks, is_main, join, leave, share, wait
from ftrun.runner.record import ladder
from ftrun.runner.record.folder import list_datasets, log_record, make_tags, write_record
from ftrun.runner.record.lock import read_choices
from ftrun.runner.resumption import find_checkpoint, find_newest_run, go_on_with
from ftrun.runner.run_folder import RunPlace, make_run_folder, require_writable
from ftrun.runner.tracking.callback import make_callback
from ftrun.runner.tracking.dispatch import start_ahead
from ftrun.runner.tracking.run import SilentRun, TrackedRun
from ftrun.runner.tracking.store import resolve_uri
from ftrun.schemas.errors import RecipeError, RunError
from ftrun.schemas.load import RecipeFile, load_recipe
from ftrun.schemas.resolve import digest, resolve
from ftrun.schemas.sections import BaseRecipe

DONE, INVALID, NOT_READY, INTERRUPTED = 0, 2, 3, 130


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
        return report_invalid(path, error)
    with start_ahead() if is_main() else nullcontext():
        join_processes([file.recipe])
        code = (
            _resume(file, ignore, out, err)
            if resume
            else run_file(file, RunPlace(), ignore=ignore, out=out, err=err)
        )
        leave()
    return code


def report_invalid(path: Path, error: RecipeError) -> int:
    """Tell what is wrong with a file, and return the exit code."""
    join(on_cpu=True)
    if is_main():
        print_report(report_mistakes(path, error, load_checks()))
    wait()  # whoever started the processes may end all of them when the first one ends
    return INVALID


def join_processes(recipes: Sequence[BaseRecipe]) -> None:
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
    place = RunPlace(folder, checkpoint, written=file, choices=choices)
    return run_file(go_on_with(file, checkpoint, err), place, ignore=ignore, out=out, err=err)


def run_file(
    file: RecipeFile, place: RunPlace, *, ignore: Mapping[str, str], out: Console, err: Console
) -> int:
    """Check and train a recipe that was read, and return the exit code. A new folder is made when the trainer
    is built, and is gone again where the checks refuse the run."""
    share(lambda: require_writable(Path(file.recipe.output)))
    made: list[Path] = []

    def make_folder() -> Path:
        if place.folder is None:
            made.append(make_run_folder(Path(file.recipe.output), file.recipe.name))
            return made[-1]
        if not place.folder.exists():
            made.append(place.folder)
            place.folder.mkdir(parents=True)
        return place.folder

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
        recorded=place.choices,
    )
    if is_main():
        print_report(ascent.report)
    if not ascent.report.ok:
        for folder in made:
            shutil.rmtree(folder)
        wait()
        return NOT_READY
    return _train(cast(AtModel, ascent.at), ascent.report, place, taken[-1], out, err)


def _train(at: AtModel, report: Report, place: RunPlace, folder: Path, out: Console, err: Console) -> int:
    file = place.written or at.file
    written = replace(at, recipe=resolve(file.recipe), file=file)
    training = at.recipe.training
    origin = checkpoints.Origin(
        digest(written.recipe),
        digest_rows(at.train),
        training["save_only_model"],
        count_ranks(),
        measure_batch(training, count_ranks()),
    )
    if place.checkpoint is not None:
        checkpoints.require_rows(place.checkpoint, origin.rows)
    stop = Interruption()
    checkpoint = place.checkpoint
    run = start_in_main(lambda: _begin(written, report, place, folder))
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
        if place.last_step is not None:
            at.trainer.add_callback(interruption.make_end(place.last_step))

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
        if place.last_step is None or place.last_step >= at.steps:
            conclude(at, run, folder, out)
        out.print(run.finish("FINISHED"))
    return DONE


def start_in_main(begin: Callable[[], TrackedRun]) -> TrackedRun:
    """The tracked run that `begin` starts in the main process; in the others one that records nothing."""
    begun: list[TrackedRun] = []
    share(lambda: begun.append(begin()))
    return begun[0] if begun else SilentRun()


def _begin(at: AtModel, report: Report, place: RunPlace, folder: Path) -> TrackedRun:
    """Write and track what describes the run."""
    for stale in folder.glob("error-*.txt"):  # of another process, when the run was begun before
        stale.unlink()
    record = write_record(at, report, folder, place.checkpoint)
    run = TrackedRun.start(
        resolve_uri(at.recipe.tracking.uri, Path(at.recipe.output)),
        at.recipe.tracking.experiment or at.recipe.name,
        place.name or folder.name,
        folder,
        params=at.recipe.model_dump(mode="json"),
        tags={**make_tags(at, report, folder), **place.tags},
        datasets=list_datasets(at),
        parent=place.parent,
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
