"""Finding a tracked run again: `run:NAME` and `run:ID` become the folder of the model that it wrote."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftrun.runner.tracking.delivery import connect, describe_error
from ftrun.schemas.errors import TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_ID = re.compile(r"[0-9a-f]{32}")
ID_START = re.compile(r"[0-9a-f]{4,31}")


def find_model(reference: str, uri: str) -> Path:
    """The model folder of a finished run in the store at `uri`.

    `reference` is MLflow's id, the run's name (`polite-1`), the recipe's name, which means its newest finished
    run, or the first four or more characters of an id. Raises TrackingError, which says what there is, where no
    such model is on this machine, or where several ids start so.
    """
    try:
        run = _find_run(reference, connect(uri))
    except TrackingError:
        raise
    except Exception as error:  # whatever the store, its driver or the network raises
        raise TrackingError(
            f"run:{reference} cannot be looked up in {uri}: {describe_error(error)}"
        ) from error
    if run is None:
        raise TrackingError(f"no finished run is called {reference} in {uri}")
    folder = run.data.tags.get("ftrun.folder")
    model = Path(folder or "", "model")
    if folder is None or not model.is_dir():
        raise TrackingError(
            f"run:{reference} is {run.info.run_name}, and its model is not on this machine (looked for {model})"
        )
    return model


def _find_run(reference: str, client: MlflowClient) -> Any | None:
    experiments = [one.experiment_id for one in client.search_experiments()]
    if RUN_ID.fullmatch(reference):
        return client.get_run(reference)
    name = reference.replace("'", "")
    for condition in (f"attributes.run_name = '{name}'", f"tags.`ftrun.recipe.name` = '{name}'"):
        found = client.search_runs(
            experiments,
            f"{condition} and attributes.status = 'FINISHED'",
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
        if found:
            return found[0]
    return _find_by_start(reference, experiments, client) if ID_START.fullmatch(reference) else None


def _find_by_start(start: str, experiments: list[str], client: MlflowClient) -> Any | None:
    condition = f"attributes.run_id LIKE '{start}%' and attributes.status = 'FINISHED'"
    found = client.search_runs(experiments, condition, max_results=5)
    if len(found) > 1:
        names = ", ".join(f"{run.info.run_id} ({run.info.run_name})" for run in found)
        raise TrackingError(f"the ids of several runs start with {start}: {names}; write more of the id")
    return found[0] if found else None
