"""Where a run is read from: its folder where that is on this machine, MLflow alone where it is not."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftrun.runner.references import OUTPUT
from ftrun.runner.story.folder import find_home, is_run_folder, read_folder, try_ledger
from ftrun.runner.story.history import History
from ftrun.runner.story.life import look_for_life
from ftrun.runner.story.record_files import FILES, RecordFiles, read_record_files
from ftrun.runner.story.run import Run
from ftrun.runner.tracking.delivered import PARENT_TAG
from ftrun.runner.tracking.delivery import connect, describe_error
from ftrun.runner.tracking.journal import METRICS_FILE, Entry, now_ms
from ftrun.runner.tracking.ledger import ARTIFACTS, TrackedData
from ftrun.runner.tracking.lookup import find_run
from ftrun.runner.tracking.secrets import redact_text
from ftrun.runner.tracking.store import resolve_uri, sqlite_path
from ftrun.schemas.errors import TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

OURS = "tags.`ftrun.key` LIKE '%'"
"""Holds for the runs of ftrun alone."""

MAX_CHILDREN = 200
"""Stages of a pipeline's run, or repetitions of a run, that are read."""


def find_history(reference: str, uri: str | None, command: str) -> History:
    """The run that `reference` names: a run folder, MLflow's id or the first four or more characters of it, a run's
    name, or that of a recipe or pipeline, which means its newest run.

    `uri` is the store, as `resolve_uri` reads it; `command` asks. Raises TrackingError where there is no such run,
    MissingExtra where only MLflow could tell.
    """
    reference = reference.removeprefix("run:")
    folder = Path(reference).expanduser()
    if is_run_folder(folder):
        return read_folder(folder)
    if "/" in reference or reference.startswith((".", "~")):
        raise TrackingError(f"{reference} is no run folder: it holds no record of a run")
    place = resolve_uri(uri, OUTPUT)
    ledger = try_ledger(OUTPUT / reference)
    if ledger is not None and ledger.uri == redact_text(place):
        return read_folder(OUTPUT / reference)
    client = open_store(place, command)
    try:
        found = _find_pipeline(reference, client) or find_run(reference, place, finished=False)
        return _read_found(found, client, place)
    except TrackingError as error:
        raise TrackingError(f"{error}; `ftrun runs` lists them") from error
    except Exception as error:  # whatever the store, its driver or the network raises
        raise TrackingError(
            f"{reference} cannot be read from {redact_text(place)}: {describe_error(error)}"
        ) from error


def open_store(uri: str, command: str) -> MlflowClient:
    """A client of a store. A SQLite store that is absent is not made.

    Raises TrackingError where there is none or it cannot be reached, MissingExtra where mlflow is not installed.
    """
    from ftrun.runner.libraries import require_training, settle_libraries

    database = sqlite_path(uri)
    if database is not None and not database.is_file():
        raise TrackingError(
            f"there is no store at {database}; name the folder that the runs are in, or their store with --uri"
        )
    require_training(command)
    settle_libraries()
    try:
        return connect(uri)
    except TrackingError:
        raise
    except Exception as error:  # whatever the store, its driver or the network raises
        raise TrackingError(f"{redact_text(uri)} cannot be opened: {describe_error(error)}") from error


def read_stage(run: Run) -> History:
    """A run below another: from its folder, else as far as its own values tell."""
    if run.folder is not None:
        return read_folder(run.folder)
    return History(run, "", RecordFiles(settings=nest(run.params)))


def read_run(found: Any, experiment: str) -> Run:
    """A run as MLflow tells it. Where its folder is on this machine, how it ended is read there: MLflow may not know
    yet."""
    tags = dict(found.data.tags)
    latest = {one.key: (int(one.step), float(one.value)) for one in found.data.to_proto().metrics}
    times = [int(one.timestamp) for one in found.data.to_proto().metrics]
    folder, ledger = find_home(tags)
    status, ended = found.info.status, found.info.end_time or 0
    if ledger is not None:
        status, ended = ledger.status, ledger.end_time
    heartbeat = tags.get("ftrun.heartbeat", "")
    started = int(found.info.start_time or 0)
    last_sign = max([started, int(heartbeat) if heartbeat.isdecimal() else 0, *times])
    return Run(
        name=found.info.run_name or "",
        run_id=found.info.run_id,
        experiment=experiment,
        status="RUNNING" if status == "SCHEDULED" else status,
        life=look_for_life(folder, last_sign, now_ms()) if status == "RUNNING" else "gone",
        started=started,
        ended=int(ended),
        folder=folder,
        tags=tags,
        params=dict(found.data.params),
        latest=latest,
        last_sign=last_sign,
        parent=tags.get(PARENT_TAG, ""),
    )


def search(client: MlflowClient, experiments: Iterable[str], condition: str, limit: int) -> list[Any]:
    """Runs of ftrun that a condition holds for, the newest first, `limit` at most."""
    found: list[Any] = []
    token = None
    while len(found) < limit:
        page = client.search_runs(
            list(experiments),
            f"{OURS} and {condition}" if condition else OURS,
            order_by=["attributes.start_time DESC"],
            max_results=min(1000, limit - len(found)),
            page_token=token,
        )
        found += page
        token = page.token
        if not token:
            break
    return found


def list_experiments(client: MlflowClient) -> dict[str, str]:
    """The names of experiments, by their ids."""
    found: dict[str, str] = {}
    token = None
    while True:
        page = client.search_experiments(page_token=token)
        found |= {one.experiment_id: one.name for one in page}
        token = page.token
        if not token:
            return found


def _find_pipeline(name: str, client: MlflowClient) -> Any | None:
    """The newest run of a pipeline, which has no recipe whose name would tell it."""
    condition = f"tags.`ftrun.kind` = 'pipeline' and params.name = '{name.replace(chr(39), '')}'"
    found = search(client, list_experiments(client), condition, 1)
    return found[0] if found else None


def _read_found(found: Any, client: MlflowClient, uri: str) -> History:
    experiment = client.get_experiment(found.info.experiment_id).name
    run = read_run(found, experiment)
    if run.folder is not None:
        history = read_folder(run.folder)
        return replace(history, run=replace(history.run, run_id=run.run_id))
    below = search(client, [found.info.experiment_id], f"tags.`{PARENT_TAG}` = '{run.run_id}'", MAX_CHILDREN)
    children = tuple(read_run(one, experiment) for one in reversed(below))
    files = _download(client, run)
    return History(run, redact_text(uri), files, tuple(_data(found, files)), children)


def _download(client: MlflowClient, run: Run) -> RecordFiles:
    """The record's files from MLflow's artifacts, the metrics step by step where the journal is not among them: it is
    sent at the end. Settings are read from the parameters where the recipe cannot be had."""
    from mlflow.exceptions import MlflowException

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    with tempfile.TemporaryDirectory(prefix="ftrun-") as folder:
        # Artifacts are where the run left them, which may not be reachable from this machine.
        with suppress(MlflowException, OSError):
            for artifact in client.list_artifacts(run.run_id, ARTIFACTS):
                name = Path(artifact.path).name
                # The journal of a run that goes on is of an earlier session.
                if name in FILES and not (name == METRICS_FILE and run.status == "RUNNING"):
                    fetched = client.download_artifacts(run.run_id, artifact.path, folder)
                    Path(fetched).replace(Path(folder, name))
        files = read_record_files(Path(folder))
    if not files.settings:
        files = replace(files, settings=nest(run.params))
    if not files.entries:
        files = replace(files, entries=_read_metrics(client, run))
    return files


def _read_metrics(client: MlflowClient, run: Run) -> tuple[Entry, ...]:
    names = [name for name in run.latest if not name.startswith("system/")]
    points = [point for name in names for point in client.get_metric_history(run.run_id, name)]
    found: dict[tuple[int, int], dict[str, float]] = {}
    for point in points:
        found.setdefault((point.timestamp, point.step), {})[point.key] = float(point.value)
    return tuple(Entry(step, time, metrics) for (time, step), metrics in sorted(found.items()))


def nest(params: Mapping[str, str]) -> dict[str, Any]:
    """The parameters of a run as the tree that they were made of, as far as that can be told: lists become mappings
    by number."""
    tree: dict[str, Any] = {}
    for key, text in params.items():
        *above, name = key.split(".")
        holder = tree
        for part in above:
            inner = holder.setdefault(part, {})
            holder = inner if isinstance(inner, dict) else {}
        try:
            holder[name] = json.loads(text)
        except ValueError:
            holder[name] = text
    return tree


def _data(found: Any, files: RecordFiles) -> Iterator[TrackedData]:
    """The sources of a run. MLflow keeps one data set for a name and digest in an experiment, with the number of rows
    that its first run had: this run's own is in the preflight report."""
    splits = {"train": "training", "eval": "eval"}
    kept = {
        (one.get("label"), splits.get(one.get("split", ""))): one.get("kept")
        for one in files.preflight.get("rows", ())
    }
    for one in getattr(found.inputs, "dataset_inputs", None) or ():
        tags = {tag.key: tag.value for tag in one.tags}
        context: Any = tags.get("mlflow.data.context", "training")
        name, rows = str(one.dataset.name), 0
        with suppress(ValueError, KeyError, TypeError):
            name = str(json.loads(one.dataset.source)["uri"])
            rows = int(json.loads(one.dataset.profile)["num_rows"])
        digest = tags.get("sha256", one.dataset.digest)
        yield TrackedData(name, name, digest, kept.get((name, context)) or rows, context)
