"""A recorded run, wherever its record is: in MLflow, or in a run folder on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ftrun.runner.record.lock import LOCK_FILE, read_lock
from ftrun.runner.references import OUTPUT
from ftrun.runner.reuse import STATE_FILE, read_results
from ftrun.runner.tracking.delivered import read_delivered
from ftrun.runner.tracking.delivery import connect, describe_error
from ftrun.runner.tracking.ledger import ARTIFACTS, has_hidden_part, read_ledger
from ftrun.runner.tracking.lookup import find_run, require_store
from ftrun.runner.tracking.store import resolve_uri
from ftrun.schemas.errors import RunError, TrackingError

PIPELINE_FILE = "pipeline.yaml"


@dataclass(frozen=True)
class Recorded:
    """A run and its record."""

    name: str
    run_id: str
    """MLflow's id; empty where the store had not answered."""

    status: str
    uri: str
    experiment: str
    folder: Path
    """Where the files of the record are: the run folder, or what was fetched from MLflow."""

    stages: Mapping[str, str]
    """Of a pipeline: each stage with what its run is found by, in their order."""

    @property
    def reference(self) -> str:
        """What names it in a tag."""
        return self.run_id or self.name


def find_recorded(reference: str, uri: str | None, scratch: Path) -> Recorded:
    """The run that `reference` names: a run folder, or MLflow's id, the start of one, or a name, in the store at
    `uri` (as `resolve_uri` reads it). What MLflow holds of it is fetched into `scratch`.

    Raises TrackingError where there is no such run, RunError where its record does not tell how to repeat it.
    """
    folder = Path(reference).expanduser()
    if (folder / LOCK_FILE).is_file() or (folder / STATE_FILE).is_file():
        recorded = _read_folder(folder.absolute(), uri)
    elif folder.is_dir():
        raise RunError(f"{folder} is no run folder: it holds no {LOCK_FILE}")
    else:
        recorded = _fetch(reference.removeprefix("run:"), resolve_uri(uri, OUTPUT), scratch)
    if not recorded.stages and not (recorded.folder / LOCK_FILE).is_file():
        raise RunError(
            f"the record of {recorded.name} holds no {LOCK_FILE}, which every run has before its first step: "
            "it is of an older version, or its store has not taken it; `ftrun sync` of its folder sends it"
        )
    return recorded


def read_state(folder: Path) -> dict[str, Any]:
    """The lock of a record, and under `resolved` the recipe with nothing left open."""
    lock = read_lock(folder)
    assert lock is not None
    resolved = yaml.safe_load((folder / "recipe.resolved.yaml").read_text(encoding="utf-8"))
    return lock | {"resolved": resolved}


def _read_folder(folder: Path, uri: str | None) -> Recorded:
    ledger = read_ledger(folder)
    if ledger is None:
        raise RunError(f"{folder} was not tracked, so its record is not whole")
    given = uri is not None or has_hidden_part(ledger.uri)
    stages = {name: str(one.folder) for name, one in read_results(folder).items()}
    return Recorded(
        ledger.name,
        read_delivered(folder, ledger).run_id,
        ledger.status,
        resolve_uri(uri, OUTPUT) if given else ledger.uri,
        ledger.experiment,
        folder,
        stages,
    )


def _fetch(reference: str, uri: str, scratch: Path) -> Recorded:
    require_store(reference, uri)
    run = find_run(reference, uri, finished=False)
    client = connect(uri)
    scratch.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        client.download_artifacts(run.info.run_id, ARTIFACTS, str(scratch))
        experiment = client.get_experiment(run.info.experiment_id).name
    except Exception as error:  # whatever the store, its driver or the network raises
        raise TrackingError(
            f"the record of {run.info.run_name} cannot be fetched from {uri}: {describe_error(error)}"
        ) from error
    folder = scratch / ARTIFACTS
    stages = dict(_list_stages(run.data.tags, folder))
    return Recorded(run.info.run_name, run.info.run_id, run.info.status, uri, experiment, folder, stages)


def _list_stages(tags: Mapping[str, str], folder: Path) -> Iterator[tuple[str, str]]:
    """The stages of a pipeline's run in their order, each with the id of its run, or its name."""
    if not (folder / PIPELINE_FILE).is_file():
        return
    written = yaml.safe_load((folder / PIPELINE_FILE).read_text(encoding="utf-8"))
    for name in written["stages"]:
        if reference := tags.get(f"ftrun.stage.{name}"):
            run, *rest = reference.split()
            yield name, rest[0] if len(rest) == 2 else run
