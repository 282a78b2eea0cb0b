"""Where the record goes: the tracking URI, always explicit and absolute, and a SQLite store made ready."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from ftrun.runner.tracking.lock import hold_lock
from ftrun.runner.tracking.secrets import redact_text
from ftrun.schemas.errors import TrackingError

INITIALISE_SECONDS = 120.0  # a fresh store is about sixty migrations: 2 s alone, more with company
SQLITE = re.compile(r"^sqlite(?:\+\w+)?:///(?P<path>[^?]*)")
REMOTE = re.compile(r"^(?:[a-z][a-z0-9+.\-]+://|databricks$|databricks-uc$|arn:)", re.IGNORECASE)


def resolve_uri(recipe_uri: str | None, output: Path) -> str:
    """The recipe's URI, else MLFLOW_TRACKING_URI, else a SQLite file in the output folder.

    A relative SQLite path is relative to the working directory, as it is for MLflow, and comes back
    absolute: left as it is, it would mean another database in every folder.
    Raises TrackingError for what MLflow 3 cannot use (a plain folder, `file:`) or would forget (memory).
    """
    fallback = f"sqlite:///{(output.absolute() / 'mlflow.db').as_posix()}"
    uri = recipe_uri or os.environ.get("MLFLOW_TRACKING_URI") or fallback
    if found := SQLITE.match(uri):
        return _absolute_sqlite(uri, found)
    if uri.startswith(("sqlite", "file:")) or not REMOTE.match(uri):
        raise TrackingError(
            f"MLflow cannot keep runs at {redact_text(uri)!r}: version 3 no longer writes to plain folders. "
            f"Set tracking.uri to {fallback} or to a server such as http://localhost:5000."
        )
    return uri.rstrip("/")


def prepare_store(uri: str) -> None:
    """Create a SQLite store's folder and tables; anything else is left to its server.

    The tables are made under a file lock: of four processes that meet at a fresh database without one,
    three crash. Artifacts go to `mlruns` beside the database.
    Raises TrackingError when the database belongs to another MLflow version.
    """
    path = sqlite_path(uri)
    if path is None:
        return
    from mlflow.exceptions import MlflowException
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path.parent.mkdir(parents=True, exist_ok=True)
    with hold_lock(path.with_name(path.name + ".lock"), INITIALISE_SECONDS):
        try:
            SqlAlchemyStore(uri, artifact_root(path).as_uri())
        except MlflowException as error:
            raise TrackingError(
                f"MLflow cannot open {path}: {error.message} Back the file up and run "
                f"`mlflow db upgrade {shlex.quote(uri)}`, or set another tracking.uri."
            ) from error


def sqlite_path(uri: str) -> Path | None:
    """The database file of a SQLite URI, None for any other."""
    found = SQLITE.match(uri)
    return Path(found["path"]) if found else None


def artifact_root(database: Path) -> Path:
    """Where the artifacts of a SQLite store go."""
    return database.parent / "mlruns"


def name_folder(experiment: str) -> str:
    """The folder below the artifact root for an experiment; two may share one, as run ids are unique."""
    return re.sub(r"[^\w\-]+", "-", experiment).strip("-") or "runs"


def describe_place(uri: str, experiment_id: str, run_id: str) -> str:
    """What to open or type to look at a run; the ids are empty while MLflow has not given them."""
    if uri.startswith(("http://", "https://")):
        shown = redact_text(uri)
        return f"{shown}/#/experiments/{experiment_id}/runs/{run_id}" if run_id else shown
    if sqlite_path(uri) is None and not re.match(r"^(?:postgresql|mysql|mssql)", uri):
        return f"{redact_text(uri)}, run {run_id}" if run_id else redact_text(uri)
    return f"mlflow ui --backend-store-uri {shlex.quote(redact_text(uri))}"


def _absolute_sqlite(uri: str, found: re.Match[str]) -> str:
    path = found["path"]
    if path in ("", ":memory:"):
        raise TrackingError(
            f"{uri!r} is a database in memory: the record would be gone with the process. "
            "Name a file: sqlite:///runs/mlflow.db"
        )
    absolute = Path(path).expanduser().absolute().as_posix()
    return uri[: found.start("path")] + absolute + uri[found.end("path") :]
