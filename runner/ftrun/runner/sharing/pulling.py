"""`ftrun recipes pull` and `lock`: recipes of a catalogue come here, compared byte for byte and judged before."""

from __future__ import annotations

import posixpath
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ftrun.runner.sharing.collecting import list_named, read_alone, require_base
from ftrun.runner.sharing.stores import Store, find_bundle
from ftrun.schemas.bundle import BASE, PREFIX, RECIPE, Address, Bundle, BundleError, read_address
from ftrun.schemas.bundle_cache import put_in_cache, write_files
from ftrun.schemas.document import read_document
from ftrun.schemas.errors import RecipeError
from ftrun.schemas.layers import read_layers
from ftrun.schemas.load import load_recipe
from ftrun.schemas.lock_file import LOCK_FILE, read_lock, write_lock
from ftrun.schemas.mistake import Mistake
from ftrun.schemas.pipeline import is_pipeline, load_pipeline
from ftrun.schemas.powers import Power, powers_of


def pull_recipe(
    address: Address, store: Store, target: Path | None, *, trust: bool, console: Console
) -> Path:
    """Write a recipe of the catalogue into the folder `target`, by default one of its name here, and return it.

    What the recipe would be allowed is shown first. Raises BundleError where its content is not what its digest says,
    it is no valid recipe, it asks for more than its own folder without `trust`, or the folder is in use.
    """
    bundle = find_bundle(store, address)
    powers = judge(bundle)
    for line in describe(bundle, powers):
        console.print(line)
    if powers and not trust:
        raise BundleError(
            f"{bundle.manifest.address} asks for what is listed above; nothing was written.",
            f"Look at it with `ftrun recipes show {bundle.manifest.address}`, and add `--trust` if you do.",
        )
    folder = (target or Path(address.name)).resolve()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise BundleError(f"{folder} is there already.", "Name another folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        write_files(bundle, Path(scratch) / "bundle")
        (Path(scratch) / "bundle").rename(folder)
    put_in_cache(bundle)
    console.print(f"wrote {folder / RECIPE}")
    return folder


def judge(bundle: Bundle) -> tuple[Power, ...]:
    """What the recipe of a bundle would be allowed. Raises BundleError where it is no valid recipe, or the bundle
    holds what the recipe does not use; both are looked at in a temporary folder."""
    powers, manifest = powers_of(bundle), bundle.manifest
    with tempfile.TemporaryDirectory(prefix="ftrun-") as scratch:
        write_files(bundle, Path(scratch) / "bundle")
        try:
            method, used = _read_staged(Path(scratch) / "bundle" / RECIPE, is_base=manifest.method == BASE)
        except RecipeError as error:
            first = error.mistakes[0]
            name = Path(first.where.file or RECIPE).name
            raise BundleError(
                f"{manifest.address} is no valid recipe: {name}:{first.where.line}: {first.message}",
                f"It was made by ftrun {manifest.ftrun}; ask whoever pushed it. Nothing of it was used.",
            ) from None
    fix = "Ask whoever pushed it; nothing of it was used."
    if method != manifest.method:
        raise BundleError(f"{manifest.address} calls itself {manifest.method}, and is {method}.", fix)
    for one in manifest.files:
        # Editors and tools obey files of certain names: what the recipe does not use is not written.
        if not any(one.name == name or one.name.startswith(f"{name}/") for name in used):
            raise BundleError(f"{manifest.address} holds {one.name}, which its recipe does not use.", fix)
    return powers


def _read_staged(path: Path, *, is_base: bool) -> tuple[str, set[str]]:
    """The method of an unpacked recipe, `pipeline` or `base`, and the names of all files and folders that it uses.
    Raises RecipeError where it is invalid."""
    if is_base:
        return BASE, {RECIPE, *_used(require_base(path), "")}
    if not is_pipeline(path):
        file = load_recipe(path)
        return file.recipe.method, {RECIPE, *_used(file.recipe.model_dump(), "")}
    used = {RECIPE}
    pipeline = load_pipeline(path)
    for stage in pipeline.stages:
        name = posixpath.normpath(pipeline.pipeline.stages[stage.name].recipe)
        for tree in (stage.file.recipe.model_dump(), read_alone(path.parent / name)):
            used |= {name, *_used(tree, posixpath.dirname(name))}
    return "pipeline", used


def _used(tree: Mapping[str, Any], folder: str) -> set[str]:
    named = (written for _, kind, written in list_named(tree) if kind != "model")
    return {posixpath.normpath(posixpath.join(folder, one)) for one in named}


def describe(bundle: Bundle, powers: Sequence[Power]) -> Iterator[str]:
    """What a bundle is, what it holds and what its recipe would be allowed."""
    manifest = bundle.manifest
    yield f"{manifest.address} ({manifest.method}, made by ftrun {manifest.ftrun})"
    yield f"  sha256:{manifest.digest}"
    for key, value in manifest.provenance.items():
        yield f"  {key}: {value}"
    for one in manifest.files:
        note = "" if one.stored else f", not in the bundle: put it there yourself, sha256:{one.sha256}"
        yield f"  {one.name} ({one.bytes:,} bytes{note})"
    for power in powers:
        yield f"  ! {power}"
    if not powers:
        yield "  reads its own folder alone, runs no code of its own, sends nothing elsewhere"


def lock_recipes(recipes: Sequence[Path], store: Store | None, *, check: bool, console: Console) -> int:
    """Fetch every `team:` base of the recipes, and write its digest into the `recipes.lock` beside the recipe that
    names it, or, with `check`, compare. Returns 0, or 2 where a lock is stale or a recipe cannot use its bases.

    Raises BundleError where a version is not there, or is no longer what was locked: that is never overwritten.
    """
    stale: list[str] = []
    files = [file for path in recipes for file in _files_of(path)]
    for folder in dict.fromkeys(file.parent for file in files):
        lock = folder / LOCK_FILE
        before = read_lock(lock)
        texts = [text for file in files if file.parent == folder for text in _addresses(file)]
        now = {str(one): _fetch(one, before.get(str(one)), store, lock) for one in map(read_address, texts)}
        new = {address: digest for address, digest in now.items() if address not in before}
        stale += [f"{lock} does not hold {address}" for address in new] if check else []
        if new and not check:
            write_lock(lock, {**before, **new})
        for address, digest in now.items():
            console.print(f"{lock}: {address} is sha256:{digest}")
    if not any(_addresses(file) for file in files):
        console.print("nothing to lock: no base of these recipes is of a catalogue")
    for line in stale:
        console.print(f"{line}; `ftrun recipes lock` adds it", style="bold red")
    broken = _broken(files)
    for mistake in broken:
        console.print(f"{mistake.where}: {mistake.message} {mistake.fix}", style="bold red")
    return 2 if stale or broken else 0


def _fetch(address: Address, locked: str | None, store: Store | None, lock: Path) -> str:
    """The digest of what an address names now, which is then in the cache."""
    if store is None:
        raise BundleError(f"`{address}` is of a catalogue, and none is set.", "Give `--catalogue PLACE`.")
    if address.version is None and not address.digest:
        raise BundleError(f"`{address}` names no version.", f"Write `{address}@VERSION`.")
    bundle = find_bundle(store, address)
    digest = bundle.manifest.digest
    if locked not in (None, digest):
        raise BundleError(
            f"`{address}` is no longer what {lock} holds: it was sha256:{locked} and is sha256:{digest}.",
            "A version never changes: ask who changed it. To take it as it is, remove its line, and lock again.",
        )
    put_in_cache(bundle)
    return digest


def _files_of(path: Path) -> list[Path]:
    """The recipe; of a pipeline itself and the recipes of its stages that are files. Raises RecipeError where it
    cannot be read."""
    stages = _stage_recipes(path)
    return list(dict.fromkeys([path, *(path.parent / one for one in stages if not one.startswith(PREFIX))]))


def _stage_recipes(path: Path) -> list[str]:
    """What the stages of a pipeline name; nothing of a recipe."""
    stages = read_document(path).tree.get("stages")
    named = (
        [one.get("recipe") for one in stages.values() if isinstance(one, dict)]
        if isinstance(stages, dict)
        else []
    )
    return [one for one in named if isinstance(one, str)]


def _addresses(path: Path) -> list[str]:
    """What a recipe or a pipeline takes from a catalogue."""
    return [*read_layers(path).team, *(one for one in _stage_recipes(path) if one.startswith(PREFIX))]


def _broken(files: Sequence[Path]) -> list[Mistake]:
    return [
        mistake
        for file in files
        for mistake in read_layers(file).mistakes
        if mistake.kind == "extends_broken"
    ]
