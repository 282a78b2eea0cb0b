"""What a recipe is made of, as a bundle holds it: itself, merged with what it extends, and the files that it uses."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ftrun.runner.sharing.flattening import flatten
from ftrun.schemas.bundle import (
    BASE,
    CODE_ENDING,
    DATA_ENDINGS,
    MAX_BYTES,
    MAX_FILE_BYTES,
    MAX_FILES,
    PREFIX,
    RECIPE,
    TEMPLATE_ENDINGS,
    Bundle,
    BundleError,
    Entry,
    Manifest,
    digest_entries,
    judge_name,
)
from ftrun.schemas.bundle_cache import bundles_folder
from ftrun.schemas.document import read_document
from ftrun.schemas.errors import RecipeError
from ftrun.schemas.layers import Layer, read_layers
from ftrun.schemas.load import load_recipe, read_draft
from ftrun.schemas.pipeline import is_pipeline, load_pipeline
from ftrun.schemas.powers import find_powers, leads_out

Tree = Mapping[str, Any]
Kind = Literal["data", "template", "code", "model"]

NO_FOLDERS = ("tiny", "policy", "reward")
"""What a recipe may write for a model that is neither a folder nor of the hub."""


@dataclass(frozen=True)
class Content:
    """The content of a bundle. `left_out` is data that is too large to be carried."""

    method: str
    files: Mapping[str, bytes]
    left_out: tuple[Entry, ...]

    @property
    def entries(self) -> list[Entry]:
        """Every file, by name in order."""
        carried = [
            Entry(name=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
            for name, content in self.files.items()
        ]
        return sorted([*carried, *self.left_out], key=lambda one: one.name)

    @property
    def digest(self) -> str:
        """The digest that the bundle has, whatever it is called."""
        return digest_entries(self.entries)

    def bundle(self, name: str, version: int, provenance: Mapping[str, str]) -> Bundle:
        """The bundle of this name and version."""
        from importlib.metadata import version as installed

        content: dict[str, Any] = {
            "schema": 1,
            "name": name,
            "version": version,
            "method": self.method,
            "ftrun": installed("ftrun"),
            "files": [one.model_dump() for one in self.entries],
            "digest": self.digest,
            "provenance": dict(provenance),
        }
        return Bundle(Manifest.model_validate(content, strict=True), self.files)


def collect(path: Path, *, is_base: bool = False) -> Content:
    """Everything that the recipe or pipeline at `path` is made of, or the part of a recipe (`is_base`).

    Raises RecipeError where it is invalid, BundleError where it names what cannot be shared: a file that is not there
    or lies outside the recipe's folder, weights.
    """
    collecting = _Collecting(path.parent)
    if is_base:
        tree = require_base(path)
        collecting.recipe(path, RECIPE)
        collecting.named(tree, path.parent)
        return collecting.content(BASE)
    if not is_pipeline(path):
        method = load_recipe(path).recipe.method
        collecting.recipe(path, RECIPE)
        return collecting.content(method)
    pipeline = load_pipeline(path)
    _judge(pipeline.document.tree, RECIPE)
    collecting.files[RECIPE] = flatten(pipeline.document, pipeline.document.tree).encode()
    for stage in pipeline.stages:
        written = pipeline.pipeline.stages[stage.name].recipe
        if written.startswith(PREFIX):
            message = f"The stage {stage.name} is `{written}`, and a shared pipeline brings its recipes."
            fix = f"Write it here with `ftrun recipes pull {written}`, and name that file."
            raise BundleError(message, fix)
        name = os.path.normpath(written).replace(os.sep, "/")
        if name not in collecting.files:
            _fit(name, f"the recipe of the stage {stage.name}")
            collecting.recipe(path.parent / name, name, is_whole=False)
        collecting.named(stage.file.recipe.model_dump(), stage.file.folder)
    return collecting.content("pipeline")


def require_base(path: Path) -> Tree:
    """The values of a part of a recipe. Raises RecipeError where it has another mistake than what it leaves to those
    that extend it; where it names no method, it has to be a part of a recipe of one of them."""
    tree = read_layers(path).merged.tree
    drafts = [
        read_draft(path, lambda layer, one=one: (Layer({"method": one} | layer.tree, layer.origins), []))  # type: ignore[misc]
        for one in ("sft", "reward", "dpo", "ppo")
    ]
    found = [[one for one in draft.mistakes if one.kind != "missing_key"] for draft in drafts]
    if all(found):
        raise RecipeError(min(found, key=len))
    return tree


class _Collecting:
    """Files by their names below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[str, bytes] = {}
        self.left_out: dict[str, Entry] = {}

    def content(self, method: str) -> Content:
        total, count = sum(map(len, self.files.values())), len(self.files) + len(self.left_out)
        if total > MAX_BYTES or count > MAX_FILES:
            message = (
                f"The recipe has {count} files of {total:,} bytes together, and {MAX_FILES} files of {MAX_BYTES:,} "
                "bytes are the most."
            )
            raise BundleError(
                message, "Keep the data where everyone has it, such as on the hub, and name it there."
            )
        return Content(method, self.files, tuple(self.left_out.values()))

    def recipe(self, path: Path, name: str, *, is_whole: bool = True) -> None:
        """A recipe, merged with what it extends. What a pipeline's stage names may be missing, as the pipeline may
        name something else in its place: the recipe as it is set is looked at besides."""
        merged = _without_cache(read_layers(path).merged.tree)
        _judge(merged, name)
        self.files[name] = flatten(read_document(path), merged).encode()
        self.named(read_alone(path), path.parent, is_needed=is_whole)

    def named(self, tree: Tree, folder: Path, *, is_needed: bool = True) -> None:
        """The files that the values of a recipe in `folder` name."""
        for key, kind, written in list_named(tree):
            path = folder / written
            if kind == "model":
                _refuse_weights(key, path)
            elif kind == "data" and path.is_dir():
                for file in sorted(path.rglob("*")):
                    if file.suffix.lower() in DATA_ENDINGS:
                        self.add(key, file, folder)
            elif path.is_file():
                self.add(key, path, folder)
            elif is_needed and written.lower().endswith((CODE_ENDING, *DATA_ENDINGS, *TEMPLATE_ENDINGS)):
                message = f"`{key}` names {written}, which is not there (looked for {path})."
                raise BundleError(message, "Correct the path: a shared recipe brings the files that it uses.")

    def add(self, key: str, path: Path, folder: Path) -> None:
        """A file, under its name below the root; one of a base from a catalogue as if it lay in `folder`."""
        own = _below_cache(str(path))
        name = os.path.relpath(path if own is None else folder / own, self.root).replace(os.sep, "/")
        _fit(name, f"`{key}`")
        if own is None and not path.resolve().is_relative_to(self.root.resolve()):
            message = f"`{key}` names {name}, a link that leads out of the recipe's folder."
            raise BundleError(message, "Put the file itself there.")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES and name.lower().endswith(DATA_ENDINGS):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            self.left_out[name] = Entry(name=name, bytes=size, sha256=digest, stored=False)
            return
        content = path.read_bytes()
        if self.files.setdefault(name, content) != content:
            message = f"{name} of the base and {name} of the recipe are two files."
            raise BundleError(message, "Rename the one beside the recipe.")


def read_alone(path: Path) -> Tree:
    """The values of a recipe; none where it is valid only as a pipeline sets it."""
    try:
        return load_recipe(path).recipe.model_dump()
    except RecipeError:
        return {}


def list_named(tree: Tree) -> Iterator[tuple[str, Kind, str]]:
    """The key, kind and text of every file or folder that a recipe may name."""
    model, value, reward, data, guards = (
        tree.get(key) or {} for key in ("model", "value", "reward", "data", "guards")
    )
    for split in ("train", "eval"):
        sources = data.get(split)
        for index, source in enumerate(sources if isinstance(sources, list) else ()):
            yield f"data.{split}.{index}.path", "data", source["path"]
    models = {f"reward.models.{index}": one for index, one in enumerate(reward.get("models") or ())}
    models |= {"model.path": model.get("path"), "model.reference": model.get("reference")}
    for key, name in (models | {"value.path": value.get("path")}).items():
        if name and name not in NO_FOLDERS:
            yield key, "model", name
    for index, function in enumerate(reward.get("functions") or ()):
        yield f"reward.functions.{index}", "code", function.rpartition(":")[0]
    if template := model.get("chat_template"):
        yield "model.chat_template", "template", template
    if probe := (guards.get("knowledge_forgotten") or {}).get("probe"):
        yield "guards.knowledge_forgotten.probe", "data", probe


def _judge(tree: Tree, file: str) -> None:
    """Raise BundleError for a value that leads out of the recipe's folder."""
    for power in find_powers(tree, file):
        if power.kind == "reaches":
            message = f"`{power.key}` is {power.value}: only what lies in the recipe's folder can be shared with it."
            raise BundleError(message, "Copy it there, and name it by its relative path.")


def _fit(name: str, whose: str) -> None:
    if leads_out(name):
        message = f"{whose} names {name}, which lies outside the recipe's folder."
        raise BundleError(message, "Copy it there, and name it by its relative path.")
    if reason := judge_name(name):
        raise BundleError(f"{whose} names {name}: {reason}.", "Rename it.")
    if name == RECIPE:
        raise BundleError(f"{whose} is called {RECIPE}, as the recipe itself is in a bundle.", "Rename it.")


def _refuse_weights(key: str, path: Path) -> None:
    if path.is_dir():
        message = f"`{key}` names the folder {path}: weights are not shared with a recipe."
        raise BundleError(
            message, "Name a model of the hub, or `run:NAME`, which each looks up in their own store."
        )


def _below_cache(name: str) -> str | None:
    """The name, within its bundle, of a file that lies in the cache; None for any other."""
    found = re.fullmatch(re.escape(bundles_folder().absolute().as_posix()) + "/[0-9a-f]{64}/(.+)", name)
    return found[1] if found else None


def _without_cache(value: Any) -> Any:
    """Values with the files of a base from a catalogue named as if they lay beside the recipe."""
    if isinstance(value, dict):
        return {key: _without_cache(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_cache(one) for one in value]
    return (_below_cache(value) or value) if isinstance(value, str) else value
