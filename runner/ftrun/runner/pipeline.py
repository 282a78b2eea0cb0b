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
    StageResult,
    find_stage_result,
    list_folders,
    make_key,
    read_results,
    write_results,
)
from ftrun.runner.run import (
    DONE,
    INTERRUPTED,
    NOT_READY,
    join_processes,
    report_invalid,
    run_file,
    start_in_main,
)
from ftrun.runner.run_folder import RunPlace, make_run_folder
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
class PipelineRun:
    """One run of a pipeline: what runs, where it is recorded, and how."""

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
        return report_invalid(path, error)
    join_processes([stage.file.recipe for stage in pipeline.stages])
    uri = resolve_uri(pipeline.pipeline.tracking.uri, Path(pipeline.pipeline.output))
    run = PipelineRun(pipeline, uri, ignore, resume, fresh, out, err)
    folder = share(lambda: _find_newest(run)) if resume else None
    if not _is_ready(run):
        wait()
        return NOT_READY
    code = _run_waiting(run, folder)
    leave()
    return code


def _run_waiting(run: PipelineRun, folder: Path | None) -> int:
    """Run the stages from the first one on that was not made before, in `folder`, or in a new one."""
    results: dict[str, StageResult] = {}
    waiting = list(run.pipeline.stages)
    while waiting and _reuse(run, waiting[0], results):
        waiting.pop(0)
    if not waiting and folder is None:
        run.out.print(f"nothing to train: every stage of {run.name} is unchanged; --fresh repeats them")
        return DONE
    home = share(lambda: folder or make_run_folder(run.output, run.name))
    return _run_stages(run, waiting, results, home)


def _find_newest(run: PipelineRun) -> Path:
    folders = list_folders(run.output, run.name)
    if not folders:
        raise RunError(f"there is no run of {run.name} in {run.output.absolute()} to resume")
    return folders[0]


def _is_ready(run: PipelineRun) -> bool:
    """Check all stages as far as that is possible before the first one trains, and tell what was found."""

    def announce(stage: str) -> None:
        run.err.print(f"checking the {stage} …", style="dim")
        if stage.startswith("data"):
            silence_bars()

    with tempfile.TemporaryDirectory(prefix="ftrun-") as scratch:
        ascents = rehearse(
            run.pipeline,
            checks=load_checks("data"),
            scratch=Path(scratch),
            ignore=run.ignore,
            upto=AtData,
            announce=announce,
        )
        reports = [ascent.report for ascent in ascents]
    if is_main():
        print_findings(reports)
    return all(report.ok for report in reports)


def _reuse(run: PipelineRun, stage: StageFile, results: dict[str, StageResult]) -> bool:
    """Whether the stage was made before from the same; its result is then put among `results`."""
    if run.fresh:
        return False
    result = share(
        lambda: find_stage_result(run.output, run.name, stage.name, make_key(stage, results, run.uri))
    )
    if result is None:
        return False
    results[stage.name] = result
    run.out.print(f"{stage.name}: unchanged since {result.folder.parent.name}, taken from there")
    return True


def _run_stages(
    run: PipelineRun, waiting: Sequence[StageFile], results: dict[str, StageResult], folder: Path
) -> int:
    """Run the stages that are waiting, each as a child of one parent run."""
    parent = start_in_main(lambda: _begin(run, results, folder))
    with parent:
        for stage in waiting:
            if not _reuse(run, stage, results):
                code = _run_stage(run, stage, results, folder)
                if code != DONE:
                    run.out.print(_describe_end(stage, code))
                    run.out.print(parent.finish("KILLED" if code == INTERRUPTED else "FAILED"))
                    return code
            parent.set_tags({f"ftrun.stage.{stage.name}": results[stage.name].reference})
            share(lambda: write_results(folder, results))
        run.out.print(f"{folder.name} is done; the model of its last stage is in {_last(run, results).model}")
        run.out.print(parent.finish("FINISHED"))
    return DONE


def _begin(run: PipelineRun, results: Mapping[str, StageResult], folder: Path) -> TrackedRun:
    """Write and track what describes the pipeline's run."""
    written = folder / "pipeline.yaml"
    written.write_text(redact_text(run.pipeline.document.text), encoding="utf-8")
    pipeline = run.pipeline.pipeline
    parent = TrackedRun.start(
        run.uri,
        pipeline.tracking.experiment or pipeline.name,
        folder.name,
        folder,
        params=pipeline.model_dump(mode="json", include={"name", "stages"}),
        tags=_tags(run, folder) | {f"ftrun.stage.{name}": one.reference for name, one in results.items()},
        artifacts=[written],
        sample_seconds=None,
    )
    write_results(folder, {**read_results(folder), **results})
    return parent


def _run_stage(run: PipelineRun, stage: StageFile, results: dict[str, StageResult], folder: Path) -> int:
    """Run one stage; once it is done, its result is among `results`."""
    names = [one.name for one in run.pipeline.stages]
    run.err.print(f"stage {stage.name} ({names.index(stage.name) + 1} of {len(names)})", style="bold")
    models = {name: str(result.model) for name, result in results.items()}
    file = replace(stage.file, recipe=with_models(stage.file.recipe, models))
    key = share(lambda: make_key(stage, results, run.uri))
    home, checkpoint = share(lambda: _choose_home(run, stage, file, key, folder))
    inputs = {f"ftrun.input.{dotted(keys)}": results[name].reference for keys, name in stage.inputs.items()}
    place = RunPlace(
        home,
        checkpoint,
        name=f"{folder.name}-{stage.name}",
        parent=folder,
        tags={"ftrun.pipeline": folder.name, "ftrun.stage": stage.name, **inputs},
        written=file,
    )
    share(lambda: write_results(folder, {**results, stage.name: StageResult(key, home)}))
    if checkpoint is not None:
        file = go_on_with(file, checkpoint, run.err)
    code = run_file(file, place, ignore=run.ignore, out=run.out, err=run.err)
    gc.collect()  # its model goes before the next is loaded: two may not fit
    if code == DONE:
        results[stage.name] = share(lambda: _read_result(home, key, f"{folder.name}-{stage.name}"))
    return code


def _read_result(home: Path, key: str, name: str) -> StageResult:
    """What a finished stage made."""
    ledger = read_ledger(home)
    run_id = "" if ledger is None else read_delivered(home, ledger).run_id
    return StageResult(key, home, digest_model(home / "model"), name, run_id)


def _choose_home(
    run: PipelineRun, stage: StageFile, file: RecipeFile, key: str, folder: Path
) -> tuple[Path, Path | None]:
    """The run folder of a stage and the checkpoint to go on from: where it was interrupted, if it can go on
    there, else a new folder."""
    begun = read_results(folder).get(stage.name) if run.resume else None
    if begun is not None and begun.key == key and list_checkpoints(begun.folder):
        return begun.folder, find_checkpoint(begun.folder, file, run.err)
    if begun is not None and begun.folder.exists():
        reason = (
            "it left no checkpoint" if begun.key == key else "its recipe, data, models or packages changed"
        )
        run.out.print(f"{stage.name}: starts anew, since {reason}")
    number = 1
    while (free := folder / (stage.name if number == 1 else f"{stage.name}-{number}")).exists():
        number += 1
    return free, None


def _describe_end(stage: StageFile, code: int) -> str:
    if code == INTERRUPTED:
        return f"the pipeline stopped in the stage {stage.name}; --resume goes on there"
    return f"the pipeline stopped before the stage {stage.name}; the stages before it are done and are kept"


def _last(run: PipelineRun, results: Mapping[str, StageResult]) -> StageResult:
    return results[run.pipeline.stages[-1].name]


def _tags(run: PipelineRun, folder: Path) -> dict[str, str]:
    return {
        **run.pipeline.pipeline.tracking.tags,
        "ftrun.version": metadata.version("ftrun"),
        "ftrun.kind": "pipeline",
        "ftrun.folder": str(folder),
        **describe_git(run.pipeline.path.parent),
    }
