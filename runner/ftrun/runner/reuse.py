"""What a stage was made from, and the finished stages of earlier runs that were made from the same.

`<output>/rlhf-1/pipeline.json` holds the stages of that run, each with the key of what it was made from.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from ftrun.runner.batch import count_processes
from ftrun.runner.weights import digest_file, digest_model
from ftrun.schemas.load import RecipeFile
from ftrun.schemas.nodes import Keys, dotted
from ftrun.schemas.pipeline import StageFile
from ftrun.schemas.resolve import digest, resolve
from ftrun.schemas.sections import Preflight, Tracking

STATE_FILE = "pipeline.json"
"""The file of a pipeline's folder that holds its stages."""

PACKAGES = ("ftrun", "torch", "transformers", "trl", "peft")
# Sections that no result depends on, or that name no file.
NO_FILES = frozenset({"name", "method", "training", "preflight", "tracking", "output"})
# Keys whose text is no path, though a file or folder may be called so.
NO_PATHS = frozenset({"split", "format", "columns", "name", "revision", "dtype", "attention", "quantization"})


@dataclass(frozen=True)
class StageResult:
    """A stage that was begun, and what it made."""

    key: str
    """Digest of what it was made from: recipe, data, models, code."""

    folder: Path
    """The run folder; the model is in `model` there."""

    digest: str = ""
    """Digest of the model's files; empty while the stage is not finished."""

    run: str = ""
    """Name of the MLflow run."""

    run_id: str = ""
    """Its id; empty where the store has not answered."""

    @property
    def model(self) -> Path:
        """The model's folder."""
        return self.folder / "model"

    @property
    def reference(self) -> str:
        """The run and the model in one line, for tags: name, id and digest."""
        return " ".join(one for one in (self.run, self.run_id, self.digest) if one)


def make_key(stage: StageFile, results: Mapping[str, StageResult], uri: str) -> str:
    """SHA-256 of what a stage is made from: its resolved recipe without what no weight depends on, the files
    that it names, the models of earlier stages that it takes, the number of processes, by which the rows of an update
    grow, and the versions of the packages that train.

    Models and data sets of the hub are taken by name and revision. `uri` is the store that `run:NAME` is in.
    """
    recipe = resolve(stage.file.recipe)
    plain = recipe.model_copy(update={"tracking": Tracking(), "preflight": Preflight(), "output": "runs"})
    content = {
        "recipe": digest(plain),
        "processes": count_processes(recipe),
        "files": dict(_digest_inputs(stage.file, uri)),
        "models": {dotted(keys): results[name].digest for keys, name in stage.inputs.items()},
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest_inputs(file: RecipeFile, uri: str) -> Iterator[tuple[str, str]]:
    """The digest of each file and folder that a recipe names: rows, models, templates, reward functions."""
    for keys, text in _texts((), file.recipe.model_dump()):
        if text.startswith("run:"):
            from ftrun.runner.tracking.lookup import find_model

            yield dotted(keys), digest_model(find_model(text.removeprefix("run:"), uri))
        for name in (text, text.rpartition(":")[0]):  # `my_rewards.py:score`
            if name and (path := _existing(name, file.folder)) is not None:
                yield dotted(keys), digest_model(path) if path.is_dir() else digest_file(path)
                break


def _texts(keys: Keys, value: Any) -> Iterator[tuple[Keys, str]]:
    """Every text of a recipe that may name a file, with its path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in (NO_PATHS if keys else NO_FILES):
                yield from _texts((*keys, key), inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts((*keys, index), inner)
    elif isinstance(value, str):
        yield keys, value


def _existing(name: str, folder: Path) -> Path | None:
    """The file or folder that a text names, None where there is none."""
    try:
        path = folder / Path(name).expanduser()
        return path if path.is_file() or path.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # a name that no file can have
        return None


def find_stage_result(output: Path, pipeline: str, stage: str, key: str) -> StageResult | None:
    """The newest finished run of a stage that was made from the same and still is what it was."""
    for folder in list_folders(output, pipeline):
        result = read_results(folder).get(stage)
        if (
            result
            and result.key == key
            and result.model.is_dir()
            and digest_model(result.model) == result.digest
        ):
            return result
    return None


def list_folders(output: Path, pipeline: str) -> list[Path]:
    """The folders of a pipeline, the newest first."""
    found = output.absolute().glob(f"{pipeline}-*/{STATE_FILE}")
    folders = [one.parent for one in found if one.parent.name.removeprefix(f"{pipeline}-").isdecimal()]
    return sorted(folders, key=lambda one: int(one.name.rpartition("-")[2]), reverse=True)


def read_results(folder: Path) -> dict[str, StageResult]:
    """The stages of a pipeline's folder, begun or finished; none where its state is not readable."""
    try:
        content = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        return {
            name: StageResult(**{**one, "folder": Path(os.path.normpath(folder.absolute() / one["folder"]))})
            for name, one in content["stages"].items()
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def write_results(folder: Path, results: Mapping[str, StageResult]) -> None:
    """Write the state beside its place and move it there: a reader never sees half of it. Folders are kept
    relative to the pipeline's, so that the output folder can move."""
    stages = {
        name: {**asdict(one), "folder": Path(os.path.relpath(one.folder, folder)).as_posix()}
        for name, one in results.items()
    }
    draft = folder / f"{STATE_FILE}.{os.getpid()}.tmp"
    draft.write_text(json.dumps({"stages": stages}, indent=1, ensure_ascii=False), encoding="utf-8")
    draft.replace(folder / STATE_FILE)
