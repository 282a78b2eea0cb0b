"""`ftrun recipes push`: a recipe with all it is made of becomes a version of a catalogue, which never changes."""

from __future__ import annotations

import getpass
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from ftrun.runner.sharing.collecting import Content, collect
from ftrun.runner.sharing.stores import Store
from ftrun.runner.tracking.git import describe_git
from ftrun.runner.tracking.secrets import SHAPES, redact, redact_text
from ftrun.schemas.bundle import DATA_ENDINGS, RECIPE_ENDINGS, Bundle, BundleError, shown
from ftrun.schemas.document import read_document
from ftrun.schemas.nodes import plain
from ftrun.schemas.powers import powers_of
from ftrun.schemas.sections import NAME


def push_recipe(
    path: Path,
    store: Store,
    *,
    name: str | None,
    version: int | None,
    run: str | None,
    is_base: bool,
    console: Console,
) -> Bundle:
    """Store the recipe at `path` as `name`, by default its own, in its next version or in `version`; `run` is noted
    as what it was proved by. With `is_base` it may lack keys, which whoever extends it writes.

    The same content again is the version that it is already. Raises RecipeError where the recipe is invalid, and
    BundleError where it holds a secret, names what cannot be shared, or the version is of another content.
    """
    content = collect(path, is_base=is_base)
    refuse_secrets(content)
    name = _name(name, path)
    bundle = _known(store, content, name, version)
    if bundle is None:
        provenance = _describe_origin(path, run)
        bundle = store.add(name, version, lambda number: content.bundle(name, number, provenance))
        console.print(f"pushed {bundle.manifest.address} to {store.place}")
    else:
        console.print(f"{bundle.manifest.address} in {store.place} is this recipe already")
    console.print(f"  sha256:{bundle.manifest.digest}")
    for one in bundle.manifest.files:
        note = "" if one.stored else ", too large to be carried: only its digest is"
        console.print(f"  {one.name} ({one.bytes:,} bytes{note})")
    for power in powers_of(bundle):
        console.print(f"  who pulls it has to trust it, as it {power}", style="yellow")
    return bundle


def refuse_secrets(content: Content) -> None:
    """Raise BundleError, with the file and the line, where a file holds what looks like a secret. Rows are searched
    for keys of well-known services alone: people write of passwords."""
    for name, written in content.files.items():
        text = written.decode("utf-8", errors="replace")
        if name.lower().endswith(DATA_ENDINGS):
            found = SHAPES.search(text)
            line = text.count("\n", 0, found.start()) + 1 if found else None
        else:
            line = _find_line(text)
        if line is None and name.lower().endswith(RECIPE_ENDINGS):
            line = next(_secret_values(name, text), None)
        if line is not None:
            message = (
                f"{name}:{line} holds what looks like a secret, and whoever pulls the recipe would have it."
            )
            raise BundleError(
                message, "Take it out, and change it where it is used: it may have been seen already."
            )


def _find_line(text: str) -> int | None:
    """The first line that is not the same without secrets."""
    clean = redact_text(text)
    if clean == text:
        return None
    pairs = zip(text.splitlines(), [*clean.splitlines(), ""], strict=False)
    return next((number for number, (one, other) in enumerate(pairs, 1) if one != other), 1)


def _secret_values(name: str, text: str) -> Iterator[int]:
    """The lines of values that are secrets by the name of their key, however they are written."""
    read = plain(text, name)

    def walk(value: Any, keys: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
        if isinstance(value, Mapping):
            for key, one in value.items():
                yield from walk(one, (*keys, key))
        elif isinstance(value, list):
            for index, one in enumerate(value):
                yield from walk(one, (*keys, index))
        elif isinstance(value, str):
            yield keys, value

    for keys, value in walk(read.value, ()):
        if redact(".".join(map(str, keys)), value) != value:
            yield read.values[keys].line or 1


def _name(name: str | None, path: Path) -> str:
    chosen = name or str(read_document(path).tree.get("name") or path.stem)
    if not re.fullmatch(NAME, chosen):
        message = f"{shown(chosen)} is no name of a recipe."
        raise BundleError(message, "Give `--name` letters, digits, `.`, `-` and `_`, 100 at most.")
    return chosen


def _known(store: Store, content: Content, name: str, version: int | None) -> Bundle | None:
    """The version that has this content already: the newest, or the one that is asked for. Raises BundleError where
    that one has another."""
    there = store.versions(name)
    asked = version if version is not None else max(there, default=None)
    if asked not in there:
        return None
    if store.head(name, asked).digest == content.digest:
        return store.read(name, asked)
    if version is None:
        return None
    message = f"{name}@{version} is there with another content, and a version never changes."
    raise BundleError(message, "Push with `--version next`.")


def _describe_origin(path: Path, run: str | None) -> dict[str, str]:
    try:
        author = getpass.getuser()
    except (OSError, KeyError):  # a container without a name for its user
        author = "unknown"
    git = describe_git(path.absolute().parent)
    names = ("commit", "branch", "repoURL", "dirty")
    told = {f"git {one}": git.get(f"mlflow.source.git.{one}", "") for one in names}
    told |= {"author": author, "run": run or ""}
    return {key: value[:500] for key, value in told.items() if value and value.isprintable()}
