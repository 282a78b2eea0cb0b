"""`ftrun RECIPE`: check, train, ask, save, record."""

from __future__ import annotations

import json
import shutil
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, cast

import yaml
from rich.console import Console

from ftrun.checks.catalogue import load_checks
from ftrun.checks.report import Report
from ftrun.checks.stages import AtModel
from ftrun.runner import interruption, progress
from ftrun.runner.data.digest import digest_rows, digest_source
from ftrun.runner.guarding.events import Events
from ftrun.runner.guarding.recovery import Recovery
from ftrun.runner.interruption import Interruption, watch_signals
from ftrun.runner.libraries import require_training, settle_libraries, silence_bars
from ftrun.runner.page import write_page
from ftrun.runner.preflight import ascend_file, report_mistakes
from ftrun.runner.printing.text import print_report
from ftrun.runner.reuse import STATE_FILE
from ftrun.runner.samples import choose_samples
from ftrun.runner.tracking.callback import make_callback
from ftrun.runner.tracking.git import describe_git
from ftrun.runner.tracking.ledger import TrackedData
from ftrun.runner.tracking.run import TrackedRun
from ftrun.runner.tracking.secrets import redact_text
from ftrun.runner.tracking.store import resolve_uri
from ftrun.schemas.errors import RecipeError, RunError, first_line
from ftrun.schemas.load import RecipeFile, load_recipe
from ftrun.schemas.resolve import digest, resolve

DIGEST_FILE = "recipe.sha256"

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
        site = Site(folder, find_checkpoint(folder, file))
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


def find_checkpoint(folder: Path, file: RecipeFile) -> Path:
    """The last checkpoint in a run folder of the recipe.

    Raises RunError where there is no checkpoint, or where the recipe has changed since: a changed rate or
    batch would be dropped in silence, since the checkpoint's own state wins.
    """
    kept = folder / DIGEST_FILE
    if not kept.is_file() or kept.read_text(encoding="utf-8").strip() != digest(resolve(file.recipe)):
        raise RunError(
            f"the recipe is not the one that {folder.name} ran with, kept in {folder / 'recipe.resolved.yaml'}; "
            "a run is resumed with the same settings, or started anew without --resume"
        )
    whole = whole_checkpoints(folder)
    if not whole:
        raise RunError(f"{folder} holds no checkpoint to resume from")
    return max(whole, key=_number)


def whole_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run folder that were written to their end."""
    # The trainer writes this file last, so a checkpoint that was cut short lacks it.
    return [one.parent for one in folder.glob("checkpoints/checkpoint-*/trainer_state.json")]


def _number(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _train(at: AtModel, report: Report, site: Site, folder: Path, out: Console, err: Console) -> int:
    uri = resolve_uri(at.recipe.tracking.uri, Path(at.recipe.output))
    stop = Interruption()
    run = TrackedRun.start(
        uri,
        at.recipe.tracking.experiment or at.recipe.name,
        site.name or folder.name,
        folder,
        params=at.recipe.model_dump(mode="json"),
        tags={**_tags(at, report, folder), **site.tags},
        datasets=_datasets(at),
        artifacts=_write_record(at, report, folder),
        parent=site.parent,
    )
    checkpoint = site.checkpoint
    begun = "" if checkpoint is None else f", going on from {checkpoint.name}"
    err.print(f"training {folder.name}: {at.steps:,} steps{begun}", style="dim")
    events = Events(run, folder, err)

    def prepare(at: AtModel) -> None:
        for callback in (make_callback(run), progress.make_callback(err), interruption.make_callback(stop)):
            at.trainer.add_callback(callback)

    with run, watch_signals(stop):
        try:
            at = Recovery(at, folder, events.tell, prepare).train(checkpoint)
        except RunError:
            raise
        except (
            Exception
        ) as error:  # the build boundary of training: torch, TRL and drivers raise what they like
            (folder / "error.txt").write_text(redact_text(traceback.format_exc()), encoding="utf-8")
            run.log_artifact(folder / "error.txt")
            raise RunError(
                f"training stopped with {first_line(error)} at step {at.trainer.state.global_step}; "
                f"the traceback is in {folder / 'error.txt'}"
            ) from error
        if stop.asked:
            return _leave(at, run, folder, out)
        _finish(at, run, folder, out)
        out.print(run.finish("FINISHED"))
    return DONE


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


def _tags(at: AtModel, report: Report, folder: Path) -> dict[str, str]:
    warned = any(finding.severity == "warning" for finding in report.findings)
    return {
        "ftrun.version": metadata.version("ftrun"),
        "ftrun.kind": "run",
        "ftrun.method": at.recipe.method,
        "ftrun.recipe.name": at.recipe.name,
        "ftrun.recipe.digest": digest(at.recipe),
        "ftrun.tokens.digest": digest_rows(at.train),
        "ftrun.preflight": "warn" if warned else "pass",
        "ftrun.folder": str(folder),
        **describe_git(at.file.folder),
        **at.recipe.tracking.tags,
    }


def _datasets(at: AtModel) -> list[TrackedData]:
    tracked = []
    for count in at.counts:
        source = next(one for one in at.sources if one.label == count.label)
        context = "training" if count.split == "train" else "eval"
        tracked.append(
            TrackedData(
                name=source.label,
                source=source.label,
                digest=digest_source(source, at.file.folder),
                rows=count.kept,
                context=cast(Any, context),
            )
        )
    return tracked


def _write_record(at: AtModel, report: Report, folder: Path) -> list[Path]:
    """Write what describes the run into its folder: recipe as written and resolved, preflight report, a few rows."""
    written = folder / "recipe.yaml"
    written.write_text(redact_text(at.file.documents[0].text), encoding="utf-8")
    resolved = folder / "recipe.resolved.yaml"
    text = yaml.safe_dump(at.recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    resolved.write_text(redact_text(text), encoding="utf-8")
    (folder / DIGEST_FILE).write_text(f"{digest(at.recipe)}\n", encoding="utf-8")
    checked = folder / "preflight.json"
    data = report.as_data() | {"rows": [asdict(count) for count in at.counts]}
    checked.write_text(json.dumps(data, indent=2, ensure_ascii=False), encoding="utf-8")
    record = [written, resolved, checked]
    if at.recipe.tracking.preview:
        record.append(folder / "preview.html")
        write_page(record[-1], at.recipe.name, choose_samples(at, 1), at.tokenizer)
    return record
