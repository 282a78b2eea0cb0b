"""How MLflow comes to hold what the ledger says.

`deliver` sends whatever is not noted as delivered, and may be called again after any failure:
metrics carry their recorded time and step, so a second sending of the same ones changes nothing.
Only `MlflowClient` is used: the fluent API keeps one run per process and calls crashed runs FINISHED.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ftrun.runner.tracking.delivered import Record, wanted_tags
from ftrun.runner.tracking.journal import Entry, read_entries
from ftrun.runner.tracking.ledger import JOURNALS, Ledger, TrackedData
from ftrun.runner.tracking.params import clean_key, shorten_value
from ftrun.runner.tracking.secrets import redact_text
from ftrun.runner.tracking.store import artifact_root, name_folder, prepare_store, sqlite_path
from ftrun.runner.tracking.uploads import send_files, send_folders

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_KEY = "ftrun.key"
MAX_METRICS = 1000  # MLflow's limit for one batch
MAX_TAG = 5000  # what MLflow promises for every store
MAX_DIGEST = 36  # MLflow's limit for a data set's digest; the whole one is a tag of the input
MAX_REASON = 200  # characters
DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # we retry ourselves; MLflow's seven take 247 s
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}
NOISY = (
    "urllib3.connectionpool",
    "mlflow.store.db.utils",
    "alembic.runtime.migration",
    "alembic.runtime.plugins",
)

Stopped = Callable[[], bool]


def import_mlflow() -> Any:
    """The class of MLflow's client. Takes one to two seconds, and may raise whatever the import raises."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    return MlflowClient


def connect(uri: str) -> MlflowClient:
    """A client of the store, made ready first. May raise whatever mlflow raises."""
    client_class = import_mlflow()
    prepare_store(uri)
    client: MlflowClient = client_class(tracking_uri=uri)
    return client


def deliver(client: MlflowClient, record: Record, stopped: Stopped) -> None:
    """Send all that is not sent, in order, until `stopped()`. Raises what MLflow raises when it cannot.

    The status comes before folders, because a model can take longer to upload than anybody waits, and in
    spite of artifacts that fail, because a broken artifact store must not leave the run RUNNING.
    """
    _create_run(client, record)
    _send_description(client, record)
    for file in JOURNALS:
        _send_journal(client, record, file, stopped)
    try:
        send_files(client, record, stopped)
    finally:
        if not stopped():
            _send_status(client, record)
    send_folders(client, record, stopped)


def describe_error(error: Exception) -> str:
    """The error in one short line, without secrets; the network's own errors are long and nested."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return redact_text(text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}…")


@contextmanager
def quiet_retries() -> Iterator[None]:
    """Keep urllib3 and alembic from reporting each retry and migration of this thread on the terminal."""
    thread = threading.get_ident()

    def is_foreign(entry: logging.LogRecord) -> bool:
        return entry.thread != thread or entry.levelno >= logging.ERROR

    for name in NOISY:
        logging.getLogger(name).addFilter(is_foreign)
    try:
        yield
    finally:
        for name in NOISY:
            logging.getLogger(name).removeFilter(is_foreign)


def _create_run(client: MlflowClient, record: Record) -> None:
    if record.delivered.run_id:
        return
    ledger = record.ledger
    experiment_id = record.delivered.experiment_id or _find_experiment(client, ledger)
    record.change(experiment_id=experiment_id)
    # An answer may have been lost on the way: look before creating a second run.
    found = client.search_runs([experiment_id], f"tags.`{RUN_KEY}` = '{ledger.key}'", max_results=1)
    if found:
        run = found[0]
    else:
        tags = {RUN_KEY: ledger.key}
        run = client.create_run(experiment_id, start_time=ledger.start_time, tags=tags, run_name=ledger.name)
    record.change(run_id=run.info.run_id)


def _find_experiment(client: MlflowClient, ledger: Ledger) -> str:
    """The experiment's id; created if absent, with its artifacts beside a SQLite database."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(ledger.experiment)
    if experiment is not None:
        return str(experiment.experiment_id)
    database = sqlite_path(ledger.uri)
    location = (artifact_root(database) / name_folder(ledger.experiment)).as_uri() if database else None
    try:
        return str(client.create_experiment(ledger.experiment, artifact_location=location))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return str(client.get_experiment_by_name(ledger.experiment).experiment_id)  # another process was faster


def _send_description(client: MlflowClient, record: Record) -> None:
    from mlflow.entities import Param

    ledger, run_id = record.ledger, record.delivered.run_id
    if ledger.status == "RUNNING" and record.delivered.status != "RUNNING":  # a finished run was resumed
        client.update_run(run_id, status="RUNNING")
        record.change(status="RUNNING")
    _send_tags(client, record)
    if record.delivered.described == ledger.session:
        return
    params = [Param(key, value) for key, value in ledger.params.items()]
    _offer(record, "parameters", client.log_batch, run_id, params=params, synchronous=True)
    inputs = [_as_input(ledger.datasets, data) for data in ledger.datasets]
    if inputs:
        _offer(record, "data sets", client.log_inputs, run_id, inputs)
    record.change(described=ledger.session)


def _send_tags(client: MlflowClient, record: Record) -> None:
    from mlflow.entities import RunTag
    from mlflow.exceptions import MlflowException

    run_id, sent = record.delivered.run_id, record.delivered.tags
    wanted = wanted_tags(record.folder, record.ledger)
    new = [
        RunTag(clean_key(key), shorten_value(value, MAX_TAG))
        for key, value in wanted.items()
        if sent.get(key) != value
    ]
    if new:
        _offer(record, "tags", client.log_batch, run_id, tags=new, synchronous=True)
    for key in sent.keys() - wanted.keys():
        try:
            client.delete_tag(run_id, clean_key(key))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # the answer to a first attempt was lost
                raise
    record.change(tags=wanted)


def _as_input(datasets: tuple[TrackedData, ...], data: TrackedData) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    # MLflow keeps one input for a name and digest: a file that serves both contexts needs two names.
    twins = [other for other in datasets if (other.name, other.digest) == (data.name, data.digest)]
    name = data.name if twins[0] is data else f"{data.name} ({data.context})"
    dataset = Dataset(
        name=name[:500],
        digest=data.digest[:MAX_DIGEST],
        source_type="local",
        source=json.dumps({"uri": data.source}),
        profile=json.dumps({"num_rows": data.rows}),
    )
    return DatasetInput(
        dataset, [InputTag("mlflow.data.context", data.context), InputTag("sha256", data.digest)]
    )


def _send_journal(client: MlflowClient, record: Record, file: str, stopped: Stopped) -> None:
    while not stopped():
        sent = record.delivered.journals
        entries, after = read_entries(record.folder / file, sent.get(file, 0), MAX_METRICS)
        if after == sent.get(file, 0):
            return
        metrics = _as_metrics(entries)
        _offer(record, file, client.log_batch, record.delivered.run_id, metrics=metrics, synchronous=True)
        record.change(journals={**sent, file: after})


def _as_metrics(entries: list[Entry]) -> list[Any]:
    from mlflow.entities import Metric

    return [
        Metric(clean_key(key), value, entry.time, entry.step)
        for entry in entries
        for key, value in entry.metrics.items()
    ]


def _send_status(client: MlflowClient, record: Record) -> None:
    ledger = record.ledger
    if ledger.status != record.delivered.status:
        client.set_terminated(record.delivered.run_id, ledger.status, ledger.end_time)
        record.change(status=ledger.status)


def _offer(record: Record, what: str, send: Callable[..., object], *values: Any, **named: Any) -> None:
    """Send; what MLflow calls invalid stays invalid, so it is noted and not tried again."""
    from mlflow.exceptions import MlflowException

    try:
        send(*values, **named)
    except MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":
            raise
        record.refuse(f"{what}: {describe_error(error)}")
