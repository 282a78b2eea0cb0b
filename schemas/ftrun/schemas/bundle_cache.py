"""Bundles on this machine: what was fetched from a catalogue lies in the cache, under its digest."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ftrun.schemas.bundle import MANIFEST, Bundle, BundleError, read_bundle
from ftrun.schemas.cache import cache_folder


def bundles_folder() -> Path:
    """Where bundles are kept by digest."""
    return cache_folder() / "recipes"


def put_in_cache(bundle: Bundle) -> Path:
    """The bundle's folder in the cache, written unless it is there and whole. Raises BundleError where it cannot be."""
    target = bundles_folder() / bundle.manifest.digest
    if _holds(target, bundle):
        return target
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=target.parent) as scratch:
            if target.exists():  # a cleaner of old files took some of it
                target.rename(Path(scratch) / "damaged")
            write_files(bundle, Path(scratch) / "bundle")
            try:
                (Path(scratch) / "bundle").rename(target)
            except OSError:
                if not _holds(target, bundle):  # otherwise another process was faster, with the same bytes
                    raise
    except OSError as error:
        message = f"The recipe cannot be kept at {target}: {error.strerror or error}."
        raise BundleError(message, "Set XDG_CACHE_HOME to a folder that can be written.") from None
    return target


def write_files(bundle: Bundle, folder: Path) -> None:
    """Write a bundle and its manifest into a folder, which must not be there yet."""
    folder.mkdir()
    for name, content in {**bundle.files, MANIFEST: bundle.content}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(content)


def _holds(folder: Path, bundle: Bundle) -> bool:
    """Whether a folder holds the files of a bundle, be it as another version with the same content."""
    try:
        return read_bundle(folder).manifest.digest == bundle.manifest.digest
    except BundleError:
        return False


def list_cached(digest: str) -> Iterator[Path]:
    """The folders of the cache whose digest begins so."""
    yield from (one for one in list_folders(bundles_folder()) if one.name.startswith(digest))


def list_folders(place: Path) -> Iterator[Path]:
    """The folders in a folder, without links and hidden ones; none where it cannot be read."""
    try:
        with os.scandir(place) as entries:
            found = [Path(one.path) for one in entries if one.is_dir(follow_symlinks=False)]
    except OSError:  # not there, or not for us
        return
    yield from (one for one in found if not one.name.startswith("."))
