"""Recipes in the model registry of an MLflow server.

A recipe is a registered model `recipe.NAME` with the tag `ftrun.kind`, a version of it an artifact folder of a run in
the experiment `ftrun-recipes`. MLflow numbers versions itself, and lets anyone overwrite artifacts: the tag with the
digest is written last, so that a version without it is unfinished, and what is read is compared with it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftrun.schemas.bundle import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    Bundle,
    BundleError,
    Manifest,
    checked,
    read_manifest,
)
from ftrun.schemas.bundle_cache import write_files
from ftrun.schemas.catalogue import expect
from ftrun.schemas.errors import MissingExtra

if TYPE_CHECKING:
    from mlflow import MlflowClient

PREFIX = "recipe."
KIND_TAG, KIND = "ftrun.kind", "recipe"
DIGEST_TAG = "ftrun.recipe.digest"
EXPERIMENT = "ftrun-recipes"
FOLDER = "recipe"
"""The artifact folder of a version's run."""

TAMPERED = "Someone changed its files in MLflow; nothing of it was used."


def open_registry(uri: str) -> RegistryStore:
    """The registry of the server at `uri`. Raises MissingExtra without mlflow, TrackingError for a URI that MLflow
    cannot use, BundleError where it does not answer."""
    if find_spec("mlflow") is None:
        raise MissingExtra("mlflow", "recipes")
    from ftrun.runner.libraries import settle_libraries
    from ftrun.runner.tracking.delivery import connect
    from ftrun.runner.tracking.secrets import redact_text
    from ftrun.runner.tracking.store import resolve_uri

    settle_libraries()
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    place = resolve_uri(uri, Path())
    with _answering(redact_text(place)):
        return RegistryStore(connect(place), place, redact_text(place))


@contextmanager
def _answering(place: str) -> Iterator[None]:
    """Whatever MLflow, its store's driver or the network raises, as BundleError."""
    from ftrun.runner.tracking.delivery import describe_error, quiet_retries
    from ftrun.schemas.errors import FtrunError

    try:
        with quiet_retries():
            yield
    except (FtrunError, KeyboardInterrupt):
        raise
    except Exception as error:
        message = f"The catalogue {place} cannot be used: {describe_error(error)}"
        raise BundleError(message, "Is the server there, and does it take your name?") from error


class RegistryStore:
    """A catalogue on an MLflow server."""

    def __init__(self, client: MlflowClient, uri: str, place: str) -> None:
        self.client = client
        self.uri = uri
        self.place = place

    def names(self) -> Sequence[str]:
        with _answering(self.place):
            found = list(_pages(self.client.search_registered_models, f"tags.`{KIND_TAG}` = '{KIND}'"))
        return sorted(one.name.removeprefix(PREFIX) for one in found if one.name.startswith(PREFIX))

    def versions(self, name: str) -> list[int]:
        return sorted(int(one.version) for one in self._all(name) if DIGEST_TAG in one.tags)

    def head(self, name: str, version: int) -> Manifest:
        return self._head(name, version)[0]

    def read(self, name: str, version: int) -> Bundle:
        manifest, run_id = self._head(name, version)
        place = self._place_of(name, version)
        return checked(manifest, lambda one: self._fetch(run_id, one.name, one.bytes, place), place)

    def add(self, name: str, version: int | None, make: Callable[[int], Bundle]) -> Bundle:
        with _answering(self.place):
            self._refuse_other_number(name, version)
            self._register(name)
            run_id = self._start_run(name)
            made = self.client.create_model_version(
                f"{PREFIX}{name}", source=f"runs:/{run_id}/{FOLDER}", run_id=run_id, await_creation_for=None
            )
            number = int(made.version)
            if version not in (None, number):  # another push was faster
                self.client.delete_model_version(f"{PREFIX}{name}", made.version)
                self._refuse_other_number(name, version)
            bundle = make(number)
            with tempfile.TemporaryDirectory(prefix="ftrun-") as scratch:
                write_files(bundle, Path(scratch) / FOLDER)
                self.client.log_artifacts(run_id, str(Path(scratch) / FOLDER), FOLDER)
            self.client.set_terminated(run_id, "FINISHED")
            digest = bundle.manifest.digest
            self.client.set_model_version_tag(f"{PREFIX}{name}", made.version, DIGEST_TAG, digest)
        return bundle

    def _refuse_other_number(self, name: str, version: int | None) -> None:
        free = max((int(one.version) for one in self._all(name)), default=0) + 1
        if version not in (None, free):
            message = f"MLflow numbers versions itself: the next one of {name} is {free}, and not {version}."
            raise BundleError(message, "Push with `--version next`.")

    def _register(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(f"{PREFIX}{name}", tags={KIND_TAG: KIND})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _start_run(self, name: str) -> str:
        from ftrun.runner.tracking.store import artifact_root, name_folder, sqlite_path

        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            database = sqlite_path(self.uri)
            place = (artifact_root(database) / name_folder(EXPERIMENT)).as_uri() if database else None
            experiment_id = self.client.create_experiment(EXPERIMENT, artifact_location=place)
        else:
            experiment_id = experiment.experiment_id
        run = self.client.create_run(experiment_id, run_name=f"{PREFIX}{name}", tags={KIND_TAG: KIND})
        return str(run.info.run_id)

    def _all(self, name: str) -> list[Any]:
        with _answering(self.place):
            return list(_pages(self.client.search_model_versions, f"name = '{PREFIX}{name}'"))

    def _place_of(self, name: str, version: int) -> str:
        return f"{self.place} {PREFIX}{name} version {version}"

    def _head(self, name: str, version: int) -> tuple[Manifest, str]:
        """The manifest of a version, and the run that holds its files."""
        place = self._place_of(name, version)
        with _answering(self.place):
            stored = self.client.get_model_version(f"{PREFIX}{name}", str(version))
        manifest = read_manifest(self._fetch(stored.run_id, MANIFEST, MAX_MANIFEST_BYTES, place), place)
        expect(manifest, name, version, place)
        if stored.tags.get(DIGEST_TAG) != manifest.digest:
            message = f"The bundle at {place} is refused: its digest is not the one that it was stored with."
            raise BundleError(message, TAMPERED)
        return manifest, str(stored.run_id)

    def _fetch(self, run_id: str, name: str, limit: int, place: str) -> bytes:
        """A file of a version, whose name was judged before, of at most `limit` bytes."""
        path, reason = f"{FOLDER}/{name}", "is missing"
        with _answering(self.place), tempfile.TemporaryDirectory(prefix="ftrun-") as scratch:
            beside = self.client.list_artifacts(run_id, path.rpartition("/")[0])
            found = next((one for one in beside if one.path == path and not one.is_dir), None)
            if found is not None and (found.file_size or 0) <= limit:
                return Path(self.client.download_artifacts(run_id, path, scratch)).read_bytes()
            if found is not None:
                reason = f"is larger than {limit:,} bytes"
        raise BundleError(f"The bundle at {place} is refused: {name} {reason}.", TAMPERED)


def _pages(search: Callable[..., Any], condition: str) -> Iterator[Any]:
    page: str | None = None
    while True:
        found = search(condition, max_results=100, page_token=page)
        yield from found
        page = found.token
        if not page:
            return
