"""The layers of a recipe: what `extends:` names lies under the file, what `--set` says lies over it.

Mappings merge key by key; lists, values and null replace what lies under them. A base is a file, or `team:NAME@VERSION`
of a catalogue.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ftrun.schemas.document import Document, read_document
from ftrun.schemas.errors import RecipeError
from ftrun.schemas.mistake import Mistake, Where
from ftrun.schemas.nodes import Keys, dotted

MAX_FILES = 100
TEAM = "team:"
DATA_FILES = (".jsonl", ".json", ".csv", ".parquet", ".arrow")
KINDS = (("path", Path.is_dir), ("reference", Path.is_dir), ("chat_template", Path.is_file))
"""The paths of `model:`, and how one of a file beside the recipe is known."""


@dataclass(frozen=True)
class Layer:
    """Values and the place of each key and list entry among them."""

    tree: dict[str, Any] = field(default_factory=dict)
    origins: Mapping[Keys, Where] = field(default_factory=dict)


@dataclass(frozen=True)
class Layers:
    """A recipe and all that it extends, merged. `complete` is false where a base could not be read: keys may
    be missing then that the recipe has. `team` holds the addresses of bases of a catalogue."""

    merged: Layer
    documents: tuple[Document, ...]
    mistakes: tuple[Mistake, ...]
    complete: bool
    team: tuple[str, ...] = ()


def read_layers(path: Path, address: str | None = None) -> Layers:
    """Read a recipe and its bases. Raises RecipeError where the recipe itself cannot be read.

    `address` is the recipe's in a catalogue, where it is from one: places in it are told by that name.
    """
    document = read_document(path)
    reading = _Reading(home=path.parent)
    reading.documents[path.resolve()] = document
    if address is not None:
        reading.pulled[path] = address
    merged = reading.layer(document, (path.resolve(),))
    mistakes = [mistake for one in reading.documents.values() for mistake in one.mistakes]
    mistakes += reading.mistakes
    team = tuple(dict.fromkeys(reading.team))
    return Layers(merged, tuple(reading.documents.values()), tuple(mistakes), reading.complete, team)


def place(origins: Mapping[Keys, Where], keys: Keys, file: str) -> Where:
    """The place of a key or of its nearest parent that is written, else the start of the file."""
    for length in range(len(keys), 0, -1):
        if origin := origins.get(keys[:length]):
            return replace(origin, key=dotted(keys))
    return Where(file, 1, 1, dotted(keys))


def laid_over(over: Layer, under: Layer) -> Layer:
    """Both layers as one."""
    tree = _merged(under.tree, over.tree)
    origins = {
        keys: origin for keys in _paths(tree) if (origin := over.origins.get(keys) or under.origins.get(keys))
    }
    return Layer(tree, origins)


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = {**under, **over}
    for key in under.keys() & over.keys():
        if isinstance(under[key], dict) and isinstance(over[key], dict):
            merged[key] = _merged(under[key], over[key])
    return merged


def _paths(value: Any, keys: Keys = ()) -> Iterator[Keys]:
    children: Any = ()
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    for key, child in children:
        yield (*keys, key)
        yield from _paths(child, (*keys, key))


class _Reading:
    """Reads bases, each once. `home` is the folder of the recipe that is asked for."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.documents: dict[Path, Document] = {}
        self.layers: dict[Path, Layer] = {}
        self.mistakes: list[Mistake] = []
        self.complete = True
        self.team: list[str] = []
        self.pulled: dict[Path, str] = {}

    def layer(self, document: Document, chain: tuple[Path, ...]) -> Layer:
        """A document with its bases under it. `chain`: the files that led here, itself the last."""
        tree = {key: value for key, value in document.tree.items() if key != "extends"}
        folder = document.path.parent
        if folder.resolve() != self.home.resolve():
            tree = relocated(tree, folder, None if document.path in self.pulled else self.home)
        positions = document.positions
        if address := self.pulled.get(document.path):
            # It lies in a cache, where nobody is to change it.
            positions = {keys: replace(where, file=address) for keys, where in positions.items()}
        under = Layer()
        for name, where in self.bases(document):
            is_team = name.startswith(TEAM)
            base = self.of_team(name, where) if is_team else self.base(folder / name, where, chain)
            under = laid_over(base, under)
        return laid_over(Layer(tree, positions), under)

    def bases(self, document: Document) -> list[tuple[str, Where]]:
        extends = document.tree.get("extends")
        at = document.positions.get(("extends",), Where(str(document.path)))
        if extends is None:
            return []
        if isinstance(extends, str):
            return [(extends, at)]
        if isinstance(extends, list) and all(isinstance(name, str) for name in extends):
            return [(name, document.positions["extends", index]) for index, name in enumerate(extends)]
        self.complete = False
        message = "`extends` takes the path of a recipe, or a list of such paths."
        fix = "Write `extends: base.yaml`; the path is relative to the file that says it."
        self.mistakes.append(Mistake("wrong_type", message, at, fix))
        return []

    def base(self, path: Path, where: Where, chain: tuple[Path, ...]) -> Layer:
        real = resolved(path)
        if real in chain:
            names = " → ".join(_shown(file, self.home) for file in (*chain[chain.index(real) :], real))
            return self.broken(
                f"The recipe extends itself: {names}.", where, "Remove one of these `extends`."
            )
        if real not in self.layers:
            if len(self.documents) >= MAX_FILES:
                message = f"More than {MAX_FILES} files extend one another."
                return self.broken(message, where, "Merge some of them into one.")
            try:
                document = read_document(path)
            except RecipeError as error:
                return self.unread(error, where)
            self.documents[real] = document
            self.layers[real] = self.layer(document, (*chain, real))
        return self.layers[real]

    def of_team(self, address: str, where: Where) -> Layer:
        """A base of a catalogue, whose own files lie in the cache."""
        from ftrun.schemas.bundle import BundleError  # these two are imported only where they are asked for
        from ftrun.schemas.catalogue import locate_base

        self.team.append(address)
        try:
            path = locate_base(address, self.home)
        except BundleError as error:
            return self.broken(str(error), where, error.fix)
        self.pulled[path] = address
        return self.base(path, where, ())

    def unread(self, error: RecipeError, where: Where) -> Layer:
        """A base that is no recipe is told at the line that names it, one that is not YAML at its own."""
        for mistake in error.mistakes:
            if mistake.kind != "recipe_unreadable":
                self.mistakes.append(mistake)
                self.complete = False
            else:
                message = f"The base `{mistake.where}` cannot be used. {mistake.message}"
                self.broken(message, where, mistake.fix)
        return Layer()

    def broken(self, message: str, where: Where, fix: str) -> Layer:
        self.complete = False
        self.mistakes.append(Mistake("extends_broken", message, where, fix))
        return Layer()


def resolved(path: Path) -> Path:
    """The path without links; as it is where it leads nowhere."""
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError):  # a NUL in the name, or links in a circle: reading says so
        return path


def _shown(path: Path, home: Path) -> str:
    return Path(os.path.relpath(path, home.resolve())).as_posix()


def relocated(tree: dict[str, Any], folder: Path, home: Path | None) -> dict[str, Any]:
    """The tree of a file in `folder` with its relative paths as a file in `home` would write them; absolute where
    there is no home.

    Ids of the hub look like relative paths; only what shows itself to be a path is rewritten: it exists from
    `folder`, begins with `./` or `../`, or, for data, ends as data files do.
    """
    tree = dict(tree)
    if isinstance(model := tree.get("model"), dict):
        tree["model"] = model = dict(model)
        for key, is_kind in KINDS:
            if isinstance(name := model.get(key), str) and (
                _is_dotted(name) or _holds(is_kind, folder / name)
            ):
                model[key] = _moved(name, folder, home)
    if isinstance(data := tree.get("data"), dict):
        tree["data"] = data = dict(data)
        for key in ("train", "eval"):
            if isinstance(sources := data.get(key), list):
                data[key] = [_moved_source(source, folder, home) for source in sources]
    if isinstance(reward := tree.get("reward"), dict):
        tree["reward"] = _moved_reward(reward, folder, home)
    if isinstance(value := tree.get("value"), dict) and "path" in value:
        tree["value"] = {**value, "path": _moved_folder(value["path"], folder, home)}
    if isinstance(guards := tree.get("guards"), dict):
        asked = guards.get("knowledge_forgotten")
        if isinstance(asked, dict) and isinstance(name := asked.get("probe"), str):
            moved = {**asked, "probe": _moved(name, folder, home)}
            tree["guards"] = {**guards, "knowledge_forgotten": moved}
    return tree


def _moved_reward(reward: dict[str, Any], folder: Path, home: Path | None) -> dict[str, Any]:
    reward = dict(reward)
    if isinstance(models := reward.get("models"), list):
        reward["models"] = [_moved_folder(one, folder, home) for one in models]
    if isinstance(functions := reward.get("functions"), list):
        reward["functions"] = [_moved_function(one, folder, home) for one in functions]
    return reward


def _moved_function(function: Any, folder: Path, home: Path | None) -> Any:
    """`file.py:name` with the file moved; `module:name` as it is."""
    place, colon, name = function.rpartition(":") if isinstance(function, str) else ("", "", "")
    return f"{_moved(place, folder, home)}{colon}{name}" if place.endswith(".py") else function


def _moved_folder(name: Any, folder: Path, home: Path | None) -> Any:
    is_path = isinstance(name, str) and (_is_dotted(name) or _holds(Path.is_dir, folder / name))
    return _moved(name, folder, home) if is_path else name


def _moved_source(source: Any, folder: Path, home: Path | None) -> Any:
    if not isinstance(source, dict) or not isinstance(name := source.get("path"), str):
        return source
    if _is_dotted(name) or name.endswith(DATA_FILES) or _holds(Path.exists, folder / name):
        return {**source, "path": _moved(name, folder, home)}
    return source


def _moved(name: str, folder: Path, home: Path | None) -> str:
    if Path(name).is_absolute() or "://" in name:
        return name
    if home is None:
        return (folder / name).absolute().as_posix()
    try:
        moved = Path(os.path.relpath(folder / name, home)).as_posix()
    except ValueError:  # another drive of Windows
        return (folder / name).absolute().as_posix()
    # Without its dot `./corpus` would read as an id of the hub.
    return f"./{moved}" if _is_dotted(name) and not moved.startswith("../") else moved


def _is_dotted(name: str) -> bool:
    return name.startswith(("./", "../"))


def _holds(is_kind: Any, path: Path) -> bool:
    try:
        return bool(is_kind(path))
    except OSError:  # a name longer than the file system takes
        return False
