"""The record of a run in its folder, complete before the first step: what MLflow is given too."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import yaml

from ftrun.checks.report import Report
from ftrun.checks.stages import AtModel
from ftrun.runner.data.digest import digest_rows, digest_source
from ftrun.runner.page import write_page
from ftrun.runner.ranks import count_ranks
from ftrun.runner.record.ladder import Ladder, read_ladder, write_ladder
from ftrun.runner.record.lock import (
    LOCK_FILE,
    Lock,
    digest_lock,
    extend_lock,
    make_lock,
    make_segment,
    name_documents,
    read_lock,
)
from ftrun.runner.record.machine import write_requirements
from ftrun.runner.samples import choose_samples
from ftrun.runner.tracking.git import describe_git, read_patch
from ftrun.runner.tracking.ledger import ARTIFACTS, TrackedData, write_document
from ftrun.runner.tracking.run import TrackedRun
from ftrun.runner.tracking.secrets import redact_text
from ftrun.schemas.resolve import digest

DIGEST_FILE = "recipe.sha256"
PATCH_FILE = "code.patch"
PATCH_BYTES = 5_000_000
FILES = "files"


def write_record(at: AtModel, report: Report, folder: Path, checkpoint: Path | None) -> list[Path]:
    """Write what describes the run into its folder, and return the files of it that MLflow is to hold."""
    record = [
        *_write_lock(at, report, folder, checkpoint),
        *_write_texts(at, folder),
        _write_report(at, report, folder),
    ]
    if at.recipe.tracking.preview:
        record.append(folder / "preview.html")
        write_page(record[-1], at.recipe.name, choose_samples(at, 1), at.tokenizer)
    return record


def log_record(run: TrackedRun, folder: Path, record: list[Path]) -> None:
    """Hand the record to MLflow, each file where it lies in the folder, and begin the ladder."""
    for path in record:
        below = path.parent.relative_to(folder).as_posix()
        run.log_artifact(path, ARTIFACTS if below == "." else f"{ARTIFACTS}/{below}")
    before = read_ladder(folder)
    lock = read_lock(folder)
    assert lock is not None
    write_ladder(run, folder, Ladder(lock["weights"]["initial"], before.steps))


def make_tags(at: AtModel, report: Report, folder: Path) -> dict[str, str]:
    """The tags of the MLflow run; the record has to be written."""
    warned = any(finding.severity == "warning" for finding in report.findings)
    lock = read_lock(folder)
    assert lock is not None
    return {
        **at.recipe.tracking.tags,
        "ftrun.version": metadata.version("ftrun"),
        "ftrun.kind": "run",
        "ftrun.method": at.recipe.method,
        "ftrun.processes": str(count_ranks()),
        "ftrun.recipe.name": at.recipe.name,
        "ftrun.recipe.digest": digest(at.recipe),
        "ftrun.tokens.digest": digest_rows(at.train),
        "ftrun.init.digest": lock["weights"]["initial"],
        "ftrun.lock.digest": digest_lock(folder),
        "ftrun.preflight": "warn" if warned else "pass",
        "ftrun.folder": str(folder),
        **describe_git(at.file.folder),
    }


def list_datasets(at: AtModel) -> list[TrackedData]:
    """The sources of rows, as MLflow shows them."""
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


def _write_lock(at: AtModel, report: Report, folder: Path, checkpoint: Path | None) -> Iterator[Path]:
    """The lock, the packages and the code that it speaks of; of a resumed run only what is new."""
    before = read_lock(folder)
    lock: Lock = make_lock(at, report, folder)
    segment = make_segment(at.file.folder, at.machine, checkpoint)
    write_document(folder / LOCK_FILE, extend_lock(lock if before is None else before, lock, segment))
    yield folder / LOCK_FILE
    if before is not None:
        return
    (folder / "requirements.txt").write_text(write_requirements(), encoding="utf-8")
    yield folder / "requirements.txt"
    patch = read_patch(at.file.folder) if segment["code"]["dirty"] else None
    if patch is not None and len(patch) <= PATCH_BYTES:
        (folder / PATCH_FILE).write_text(redact_text(patch.decode(errors="replace")), encoding="utf-8")
        yield folder / PATCH_FILE
    for key, facts in lock["code"].items():
        copy = folder / FILES / key / facts["name"]
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(facts["place"], copy)
        text = copy.read_text(encoding="utf-8", errors="surrogateescape")
        if (clean := redact_text(text)) != text:
            copy.write_text(clean, encoding="utf-8", errors="surrogateescape")
        yield copy


def _write_texts(at: AtModel, folder: Path) -> Iterator[Path]:
    """The recipe and its bases as written, and what they resolve to."""
    for name, text in name_documents(at.file).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
        yield folder / name
    resolved = folder / "recipe.resolved.yaml"
    text = yaml.safe_dump(at.recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    resolved.write_text(redact_text(text), encoding="utf-8")
    (folder / DIGEST_FILE).write_text(f"{digest(at.recipe)}\n", encoding="utf-8")
    yield resolved


def _write_report(at: AtModel, report: Report, folder: Path) -> Path:
    checked = folder / "preflight.json"
    data = report.as_data() | {"rows": [asdict(count) for count in at.counts]}
    checked.write_text(json.dumps(data, indent=2, ensure_ascii=False), encoding="utf-8")
    return checked
