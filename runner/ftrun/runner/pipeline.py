"""`ftrun PIPELINE`: all stages checked, then one after the other through the ordinary run.

<output>/rlhf-1/
    pipeline.yaml     as written
    pipeline.json     the finished stages
    tracking.json …   the record of the parent run in MLflow
    sft/ ppo/         the run folder of each stage; sft-2/ where sft/ broke off
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from rich.console import Console

from ftrun.checks.catalogue import load_checks
from ftrun.checks.stages import AtData
from ftrun.runner.checkpoints import list_checkpoints
from ftrun.runner.libraries import require_training, settle_libraries, silence_bars
from ftrun.runner.printing.text import print_findings
from ftrun.runner.ranks import is_main, leave, share, wait
from ftrun.runner.rehearsal import rehearse
from ftrun.runner.resumption import find_checkpoint, go_on_with
from ftrun.runner.reuse import (
    Result,
    find_result,
    list_folders,
    make_key,
    read_results,
    write_results,
)
from ftrun.runner.run import (
    DONE,
    INTERRUPTED,
    NOT_READY,
    Site,
    make_run_folder,
    meet,
    refuse,
    run_file,
    start_in_main,
)
from ftrun.runner.tracking.delivered import read_delivered
from ftrun.runner.tracking.git import describe_git
from ftrun.runner.tracking.ledger import read_ledger
from ftrun.runner.tracking.run import TrackedRun
from ftrun.runner.tracking.secrets import redact_text
from ftrun.runner.tracking.store import resolve_uri
from ftrun.runner.weights import digest_model
from ftrun.schemas.errors import RecipeError, RunError
from ftrun.schemas.load import RecipeFile
from ftrun.schemas.nodes import dotted
from ftrun.schemas.pipeline import PipelineFile, StageFile, load_pipeline
from ftrun.schemas.references import with_models


@dataclass(frozen=True)
class Course:
    """How a pipeline is run."""

    pipeline: PipelineFile
    uri: str
    """The store that all runs are recorded in."""

    ignore: Mapping[str, str]
    resume: bool
    fresh: bool
    out: Console
    err: Console

    @property
    def name(self) -> str:
        """The pipeline's name."""
        return self.pipeline.pipeline.name

    @property
    def output(self) -> Path:
        """Where the pipeline's folders are."""
        return Path(self.pipeline.pipeline.output)


def run_pipeline(
    path: Path,
    *,
    sets: Sequence[str],
    ignore: Mapping[str, str],
    out: Console,
    err: Console,
    resume: bool = False,
    fresh: bool = False,
) -> int:
    """Check every stage of a pipeline, train them in order, and return the exit code.

    A stage that was made before from the same recipe, data, models and code is taken from there, unless
    `fresh`. With `resume`, the newest run of the pipeline goes on in its folder, and a stage that was
    interrupted from its last checkpoint. Raises RunError where there is nothing to resume.
    """
    require_training(str(path))
    settle_libraries()
    if not is_main():
        out.quiet = err.quiet = True
    try:
        pipeline = load_pipeline(path, sets)
    except RecipeError as error:
        return refuse(path, error)
    meet([stage.file.recipe for stage in pipeline.stages])
    uri = resolve_uri(pipeline.pipeline.tracking.uri, Path(pipeline.pipeline.output))
    course = Course(pipeline, uri, ignore, resume, fresh, out, err)
    folder = share(lambda: _find_newest(course)) if resume else None
    if not _is_ready(course):
        wait()
        return NOT_READY
    code = _run_waiting(course, folder)
    leave()
    return code


def _run_waiting(course: Course, folder: Path | None) -> int:
    """Run the stages from the first one on that was not made before, in `folder`, or in a new one."""
    results: dict[str, Result] = {}
    waiting = list(course.pipeline.stages)
    while waiting and _take_over(course, waiting[0], results):
        waiting.pop(0)
    if not waiting and folder is None:
        course.out.print(f"nothing to train: every stage of {course.name} is unchanged; --fresh repeats them")
        return DONE
    home = share(lambda: folder or make_run_folder(course.output, course.name))
    return _run_stages(course, waiting, results, home)


def _find_newest(course: Course) -> Path:
    folders = list_folders(course.output, course.name)
    if not folders:
        raise RunError(f"there is no run of {course.name} in {course.output.absolute()} to resume")
    return folders[0]


def _is_ready(course: Course) -> bool:
    """Check all stages as far as that is possible before the first one trains, and tell what was found."""

    def announce(stage: str) -> None:
        course.err.print(f"checking the {stage} …", style="dim")
        if stage.startswith("data"):
            silence_bars()

    with tempfile.TemporaryDirectory(prefix="ftrun-") as scratch:
        ascents = rehearse(
            course.pipeline,
            checks=load_checks("data"),
            scratch=Path(scratch),
            ignore=course.ignore,
            upto=AtData,
            announce=announce,
        )
        reports = [ascent.report for ascent in ascents]
    if is_main():
        print_findings(reports)
    return all(report.ok for report in reports)


def _take_over(course: Course, stage: StageFile, results: dict[str, Result]) -> bool:
    """Whether the stage was made before from the same; its result is then among `results`."""
    if course.fresh:
        return False
    result = share(
        lambda: find_result(course.output, course.name, stage.name, make_key(stage, results, course.uri))
    )
    if result is None:
        return False
    results[stage.name] = result
    course.out.print(f"{stage.name}: unchanged since {result.folder.parent.name}, taken from there")
    return True


def _run_stages(
    course: Course, waiting: Sequence[StageFile], results: dict[str, Result], folder: Path
) -> int:
    """Run the stages that are waiting, each as a child of one parent run."""
    parent = start_in_main(lambda: _begin(course, results, folder))
    with parent:
        for stage in waiting:
            if not _take_over(course, stage, results):
                code = _run_stage(course, stage, results, folder)
                if code != DONE:
                    course.out.print(_describe_end(stage, code))
                    course.out.print(parent.finish("KILLED" if code == INTERRUPTED else "FAILED"))
                    return code
            parent.set_tags({f"ftrun.stage.{stage.name}": results[stage.name].reference})
            share(lambda: write_results(folder, results))
        course.out.print(
            f"{folder.name} is done; the model of its last stage is in {_last(course, results).model}"
        )
        course.out.print(parent.finish("FINISHED"))
    return DONE


def _begin(course: Course, results: Mapping[str, Result], folder: Path) -> TrackedRun:
    """Write and track what describes the pipeline's run."""
    written = folder / "pipeline.yaml"
    written.write_text(redact_text(course.pipeline.document.text), encoding="utf-8")
    pipeline = course.pipeline.pipeline
    parent = TrackedRun.start(
        course.uri,
        pipeline.tracking.experiment or pipeline.name,
        folder.name,
        folder,
        params=pipeline.model_dump(mode="json", include={"name", "stages"}),
        tags=_tags(course, folder) | {f"ftrun.stage.{name}": one.reference for name, one in results.items()},
        artifacts=[written],
        sample_seconds=None,
    )
    write_results(folder, {**read_results(folder), **results})
    return parent


def _run_stage(course: Course, stage: StageFile, results: dict[str, Result], folder: Path) -> int:
    """Run one stage; once it is done, its result is among `results`."""
    names = [one.name for one in course.pipeline.stages]
    course.err.print(f"stage {stage.name} ({names.index(stage.name) + 1} of {len(names)})", style="bold")
    models = {name: str(result.model) for name, result in results.items()}
    file = replace(stage.file, recipe=with_models(stage.file.recipe, models))
    key = share(lambda: make_key(stage, results, course.uri))
    home, checkpoint = share(lambda: _choose_home(course, stage, file, key, folder))
    inputs = {f"ftrun.input.{dotted(keys)}": results[name].reference for keys, name in stage.inputs.items()}
    site = Site(
        home,
        checkpoint,
        name=f"{folder.name}-{stage.name}",
        parent=folder,
        tags={"ftrun.pipeline": folder.name, "ftrun.stage": stage.name, **inputs},
        written=file,
    )
    share(lambda: write_results(folder, {**results, stage.name: Result(key, home)}))
    if checkpoint is not None:
        file = go_on_with(file, checkpoint, course.err)
    code = run_file(file, site, ignore=course.ignore, out=course.out, err=course.err)
    gc.collect()  # its model goes before the next is loaded: two may not fit
    if code == DONE:
        results[stage.name] = share(lambda: _read_result(home, key, f"{folder.name}-{stage.name}"))
    return code


def _read_result(home: Path, key: str, name: str) -> Result:
    """What a finished stage made."""
    ledger = read_ledger(home)
    run_id = "" if ledger is None else read_delivered(home, ledger).run_id
    return Result(key, home, digest_model(home / "model"), name, run_id)


def _choose_home(
    course: Course, stage: StageFile, file: RecipeFile, key: str, folder: Path
) -> tuple[Path, Path | None]:
    """The run folder of a stage and the checkpoint to go on from: where it was interrupted, if it can go on
    there, else a new folder."""
    begun = read_results(folder).get(stage.name) if course.resume else None
    if begun is not None and begun.key == key and list_checkpoints(begun.folder):
        return begun.folder, find_checkpoint(begun.folder, file, course.err)
    if begun is not None and begun.folder.exists():
        reason = (
            "it left no checkpoint" if begun.key == key else "its recipe, data, models or packages changed"
        )
        course.out.print(f"{stage.name}: starts anew, since {reason}")
    number = 1
    while (free := folder / (stage.name if number == 1 else f"{stage.name}-{number}")).exists():
        number += 1
    return free, None


def _describe_end(stage: StageFile, code: int) -> str:
    if code == INTERRUPTED:
        return f"the pipeline stopped in the stage {stage.name}; --resume goes on there"
    return f"the pipeline stopped before the stage {stage.name}; the stages before it are done and are kept"


def _last(course: Course, results: Mapping[str, Result]) -> Result:
    return results[course.pipeline.stages[-1].name]


def _tags(course: Course, folder: Path) -> dict[str, str]:
    return {
        **course.pipeline.pipeline.tracking.tags,
        "ftrun.version": metadata.version("ftrun"),
        "ftrun.kind": "pipeline",
        "ftrun.folder": str(folder),
        **describe_git(course.pipeline.path.parent),
    }
