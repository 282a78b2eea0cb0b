"""Where a team keeps its recipes: a folder, or the model registry of an MLflow server."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from ftrun.schemas.bundle import Address, Bundle, BundleError, Manifest
from ftrun.schemas.bundle_cache import write_files
from ftrun.schemas.catalogue import (
    VARIABLE,
    choose_version,
    configured,
    is_folder,
    list_names,
    list_versions,
    read_head,
    read_version,
)


class Store(Protocol):
    """A catalogue. Every method may raise BundleError."""

    place: str

    def names(self) -> Sequence[str]:
        """The recipes that it has."""
        ...

    def versions(self, name: str) -> list[int]:
        """The versions of a recipe, in order."""
        ...

    def head(self, name: str, version: int) -> Manifest:
        """The manifest of a version, its files not compared."""
        ...

    def read(self, name: str, version: int) -> Bundle:
        """A version, every byte compared."""
        ...

    def add(self, name: str, version: int | None, make: Callable[[int], Bundle]) -> Bundle:
        """Store what `make` makes for the version's number, the next one where none is given. Whole or not at all,
        and never in the place of another."""
        ...


def open_store(place: str | None) -> Store:
    """The store at `place`, else the one that FTRUN_CATALOGUE names. Raises BundleError where there is none, and
    MissingExtra where an MLflow server needs packages that are not here."""
    catalogue = configured(place)
    if catalogue is None:
        fix = f"Give `--catalogue PLACE`, or set {VARIABLE}: a folder, or an MLflow tracking URI."
        raise BundleError("No catalogue of the team is set.", fix)
    if is_folder(catalogue):
        return FolderStore(Path(catalogue))
    from ftrun.runner.sharing.registry import open_registry

    return open_registry(catalogue)


def find_bundle(store: Store, address: Address) -> Bundle:
    """The bundle that an address names in a store. Raises BundleError where there is none, or it is not whole."""
    versions = store.versions(address.name)
    version = choose_version(address, versions, lambda one: store.head(address.name, one))
    if version is None:
        there = ", ".join(map(str, versions[-5:]))
        has = f"its versions are {there}" if versions else "there is no recipe of this name"
        fix = "`ftrun recipes list` shows what there is."
        raise BundleError(f"{store.place} has no `{address}`: {has}.", fix)
    bundle = store.read(address.name, version)
    if not bundle.manifest.digest.startswith(address.digest):
        raise BundleError(f"`{address}` was changed while it was read.", "Try again.")
    return bundle


class FolderStore:
    """A catalogue in a folder: NAME/VERSION/ holds a bundle."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.place = str(folder)

    def names(self) -> Sequence[str]:
        return list_names(self.folder)

    def versions(self, name: str) -> list[int]:
        return list_versions(self.folder, name)

    def head(self, name: str, version: int) -> Manifest:
        return read_head(self.folder, name, version)

    def read(self, name: str, version: int) -> Bundle:
        return read_version(self.folder, name, version)

    def add(self, name: str, version: int | None, make: Callable[[int], Bundle]) -> Bundle:
        home = self.folder / name
        home.mkdir(parents=True, exist_ok=True)
        for number in [version] if version else range(self._next(name), self._next(name) + 100):
            bundle = make(number)
            # A folder of mkdtemp would be closed to everyone else.
            scratch = home / f".new-{uuid.uuid4().hex}"
            try:
                write_files(bundle, scratch)
                scratch.rename(home / str(number))
                return bundle
            except OSError:
                if not (home / str(number)).exists():
                    raise
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        raise BundleError(f"{name}@{version or 'next'} was stored by someone else just now.", "Push again.")

    def _next(self, name: str) -> int:
        return max(self.versions(name), default=0) + 1
