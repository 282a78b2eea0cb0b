"""Finding a tracked run again, by its id, the start of one, its name, or the name of its recipe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftrun.runner.tracking.delivery import connect, describe_error
from ftrun.runner.tracking.store import sqlite_path
from ftrun.schemas.errors import TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_ID = re.compile(r"[0-9a-f]{32}")
ID_START = re.compile(r"[0-9a-f]{4,31}")
REPRODUCES = "ftrun.reproduces"
"""The tag of a run that repeats another: the id of that one, or its name."""


def find_model(reference: str, uri: str) -> Path:
    """The model folder of a finished run in the store at `uri`.

    `reference` is MLflow's id, the run's name (`polite-1`), the recipe's name, which means its newest finished
    run, or the first four or more characters of an id. Raises TrackingError, which says what there is, where no
    such model is on this machine, or where several ids start so.
    """
    run = find_run(reference, uri)
    folder = run.data.tags.get("ftrun.folder")
    model = Path(folder or "", "model")
    if folder is None or not model.is_dir():
        raise TrackingError(
            f"run:{reference} is {run.info.run_name}, and its model is not on this machine (looked for {model})"
        )
    return model


def require_store(reference: str, uri: str) -> None:
    """Raise TrackingError where `uri` is a SQLite store that is absent: looking a run up would make it."""
    database = sqlite_path(uri)
    if database is not None and not database.is_file():
        raise TrackingError(
            f"run {reference} cannot be looked up, since there is no store at {database}; "
            "name the run's folder, or its store with --uri"
        )


def find_run(reference: str, uri: str, *, finished: bool = True) -> Any:
    """The MLflow run that `reference` names, as `find_model` reads it; a run that did not finish too where `finished`
    is false. Raises TrackingError where there is none, or several ids start so."""
    condition = " and attributes.status = 'FINISHED'" if finished else ""
    try:
        run = _find_run(reference, connect(uri), condition)
    except TrackingError:
        raise
    except Exception as error:  # whatever the store, its driver or the network raises
        raise TrackingError(
            f"run:{reference} cannot be looked up in {uri}: {describe_error(error)}"
        ) from error
    if run is None:
        raise TrackingError(f"no {'finished ' if finished else ''}run is called {reference} in {uri}")
    return run


def _find_run(reference: str, client: MlflowClient, condition: str) -> Any | None:
    experiments = [one.experiment_id for one in client.search_experiments()]
    if RUN_ID.fullmatch(reference):
        return client.get_run(reference)
    name = reference.replace("'", "")
    by_name = _find_newest(f"attributes.run_name = '{name}'{condition}", experiments, client)
    if by_name is None:
        of_recipe = f"tags.`ftrun.recipe.name` = '{name}'{condition}"
        by_name = _find_newest(of_recipe, experiments, client, originals=True)
    if by_name is None and ID_START.fullmatch(reference):
        return _find_by_start(reference, experiments, client, condition)
    return by_name


def _find_newest(
    condition: str, experiments: list[str], client: MlflowClient, *, originals: bool = False
) -> Any | None:
    """The newest run; of `originals` alone, one that repeats no other: a repetition is not the recipe's newest run."""
    page: str | None = None
    while True:
        found = client.search_runs(
            experiments, condition, order_by=["attributes.start_time DESC"], max_results=20, page_token=page
        )
        for run in found:
            if not originals or REPRODUCES not in run.data.tags:
                return run
        page = found.token
        if not page:
            return None


def _find_by_start(start: str, experiments: list[str], client: MlflowClient, condition: str) -> Any | None:
    found = client.search_runs(experiments, f"attributes.run_id LIKE '{start}%'{condition}", max_results=5)
    if len(found) > 1:
        names = ", ".join(f"{run.info.run_id} ({run.info.run_name})" for run in found)
        raise TrackingError(f"the ids of several runs start with {start}: {names}; write more of the id")
    return found[0] if found else None
