"""Recipes of a team: `team:NAME@VERSION` in `extends:`, found in a folder or in the cache, held to a lock file.

A catalogue is a folder, NAME/VERSION/ with a bundle in each (a git repository is one), or an MLflow server, which
is asked by the runner alone. What was fetched lies in the cache under its digest, and every load compares it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from ftrun.schemas.bundle import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    PREFIX,
    RECIPE,
    Address,
    Bundle,
    BundleError,
    Manifest,
    read_address,
    read_bundle,
    read_manifest,
    read_plain,
    shown,
)
from ftrun.schemas.bundle_cache import list_cached, list_folders, put_in_cache
from ftrun.schemas.lock_file import LOCK_FILE, read_lock
from ftrun.schemas.powers import powers_of

VARIABLE = "FTRUN_CATALOGUE"
_SERVER = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+:|databricks$")  # one letter and a colon is a drive of Windows


def configured(place: str | None = None) -> str | None:
    """The catalogue: `place` where it is given, else what FTRUN_CATALOGUE says."""
    return place or os.environ.get(VARIABLE) or None


def is_folder(place: str) -> bool:
    """Whether a catalogue is a folder, and not an MLflow tracking URI."""
    return _SERVER.match(place) is None


def locate_base(text: str, home: Path) -> Path:
    """The recipe that `extends: team:…` of a recipe in `home` names: a file in the cache, every byte of its bundle
    compared. Raises BundleError where there is none, where its content is not the locked one, or where it would be
    allowed what a base from elsewhere is not."""
    address = read_address(text)
    if address.version is None and not address.digest:
        raise BundleError(
            f"`{PREFIX}{address.name}` names no version, and the newest one is another tomorrow.",
            f"Write `{PREFIX}{address.name}@VERSION`; `ftrun recipes list` shows which there are.",
        )
    locked = read_lock(home / LOCK_FILE).get(str(address), "")
    return _find(address, locked) / RECIPE


def _refuse_powers(address: Address, bundle: Bundle) -> None:
    if powers := powers_of(bundle):
        told = "; ".join(str(power) for power in powers)
        message = f"`{address}` asks for more than a base from a catalogue may have. It {told}."
        fix = (
            f"Look at it with `ftrun recipes show {address}`, write it here with "
            f"`ftrun recipes pull {address} --trust`, and extend that file."
        )
        raise BundleError(message, fix)


def _find(address: Address, locked: str) -> Path:
    """The folder in the cache of what an address names."""
    catalogue = configured()
    if catalogue is not None and is_folder(catalogue) and (version := find_version(Path(catalogue), address)):
        bundle = read_version(Path(catalogue), address.name, version)
        digest = bundle.manifest.digest
        if not digest.startswith(address.digest):
            raise _absent(address, catalogue, True)
        if locked and digest != locked:
            raise BundleError(
                f"`{address}` is no longer what {LOCK_FILE} holds: its content was sha256:{locked[:12]} and is "
                f"sha256:{digest[:12]}.",
                f"A version never changes: ask who changed it. To take it as it is, remove it from {LOCK_FILE} and "
                "lock again with `ftrun recipes lock`.",
            )
        _refuse_powers(address, bundle)
        return put_in_cache(bundle)
    wanted = locked or address.digest
    folders = list(list_cached(wanted)) if wanted else []
    if len(folders) > 1:
        raise BundleError(f"Several recipes begin with sha256:{wanted}.", "Write more of the digest.")
    if folders:
        bundle = read_bundle(folders[0])
        if bundle.manifest.digest != folders[0].name:
            fix = f"Remove the folder {folders[0]}, and fetch it again with `ftrun recipes lock`."
            raise BundleError(f"What is kept of `{address}` is another recipe.", fix)
        _refuse_powers(address, bundle)
        return folders[0]
    raise _absent(address, catalogue, bool(wanted))


def _absent(address: Address, catalogue: str | None, is_pinned: bool) -> BundleError:
    fetch = f"`ftrun recipes lock RECIPE`, which fetches it and writes {LOCK_FILE}"
    if catalogue is None:
        message = f"`{address}` is not on this machine, and no catalogue is set."
        return BundleError(message, f"Set {VARIABLE} to the team's folder or MLflow server, and run {fetch}.")
    if is_folder(catalogue):
        names = ", ".join(f"`{one}`" for one in _nearest(Path(catalogue), address)) or "nothing of this name"
        message = f"There is no `{address}` in the catalogue {shown(catalogue)}; it has {names}."
        return BundleError(
            message, "Correct the name or the version; `ftrun recipes list` shows what there is."
        )
    what = "is not on this machine" if is_pinned else f"is not in {LOCK_FILE}"
    return BundleError(f"`{address}` {what}, and only a command asks an MLflow server.", f"Run {fetch}.")


def _nearest(catalogue: Path, address: Address) -> list[str]:
    return [f"{PREFIX}{address.name}@{version}" for version in list_versions(catalogue, address.name)][-5:]


def list_names(catalogue: Path) -> list[str]:
    """The names of the recipes of a folder."""
    return sorted(one.name for one in list_folders(catalogue) if list_versions(catalogue, one.name))


def list_versions(catalogue: Path, name: str) -> list[int]:
    """The versions of a recipe in a folder, in order; none where there is no such recipe."""
    names = (one.name for one in list_folders(catalogue / name))
    return sorted(int(one) for one in names if re.fullmatch("[1-9][0-9]{0,8}", one))


def find_version(catalogue: Path, address: Address) -> int | None:
    """The version of a folder that an address means, None where there is none."""
    versions = list_versions(catalogue, address.name)
    return choose_version(address, versions, lambda one: read_head(catalogue, address.name, one))


def choose_version(address: Address, versions: list[int], head: Callable[[int], Manifest]) -> int | None:
    """The version that an address means, the newest where it names neither version nor digest; None where there is
    none. A version whose head cannot be read has no digest."""

    def begins(version: int) -> bool:
        try:
            return head(version).digest.startswith(address.digest)
        except BundleError:
            return False

    if address.digest:
        return next((one for one in reversed(versions) if begins(one)), None)
    if address.version is None:
        return versions[-1] if versions else None
    return address.version if address.version in versions else None


def read_head(catalogue: Path, name: str, version: int) -> Manifest:
    """The manifest of a version, its files not compared. Raises BundleError."""
    folder = catalogue / name / str(version)
    manifest = read_manifest(
        read_plain(catalogue, f"{name}/{version}/{MANIFEST}", MAX_MANIFEST_BYTES), str(folder)
    )
    expect(manifest, name, version, str(folder))
    return manifest


def read_version(catalogue: Path, name: str, version: int) -> Bundle:
    """A version of a folder, every byte compared. Raises BundleError."""
    read_head(catalogue, name, version)
    bundle = read_bundle(catalogue / name / str(version))
    expect(bundle.manifest, name, version, str(catalogue))
    return bundle


def expect(manifest: Manifest, name: str, version: int, place: str) -> None:
    """Raise BundleError unless a manifest is of this name and version."""
    if (manifest.name, manifest.version) != (name, version):
        message = (
            f"The bundle at {shown(place)} is refused: it stands under {name}@{version} and calls itself"
        )
        raise BundleError(
            f"{message} {manifest.address}.", "Ask whoever keeps the catalogue; nothing of it was used."
        )
