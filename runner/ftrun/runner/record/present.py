"""What a recorded run was made from, looked for on this machine: found, found with another content, or missing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ftrun.runner.environment import inspect_machine
from ftrun.runner.record.digests import Facts, describe_source
from ftrun.runner.record.folder import FILES
from ftrun.runner.record.inputs import describe_reference, describe_seeds
from ftrun.runner.record.lock import Lock, make_segment
from ftrun.runner.weights import digest_file
from ftrun.schemas.errors import RecipeError, RunError, TrackingError
from ftrun.schemas.load import RecipeFile, load_recipe
from ftrun.schemas.resolve import resolve


@dataclass(frozen=True)
class Search:
    """Where to look."""

    record: Path
    """The record, which holds copies of the files of code."""

    data: Path | None
    """A folder to look in before all others."""

    replaced: Mapping[str, str]
    """Model folders that stand for recorded ones: those of the stages of a pipeline that are reproduced."""

    uri: str


def locate_inputs(lock: Lock, search: Search) -> dict[str, dict[str, Facts]]:
    """`data`, `models` and `code` as a lock describes them, of what is on this machine. Each has under `written` what
    the recipe has to say for it; what is missing has no `files` and no digest."""
    return {
        "data": {key: _locate_data(facts, lock, search) for key, facts in lock["data"].items()},
        "models": {key: _locate_model(facts, lock, search) for key, facts in lock["models"].items()},
        "code": {key: _locate_code(key, facts, search) for key, facts in lock["code"].items()},
    }


def write_recipe(
    lock: Lock, found: Mapping[str, Mapping[str, Facts]], changes: Facts, path: Path
) -> RecipeFile:
    """The recorded recipe with the places that things have on this machine, as a file that is read again.

    `changes` are sections that are laid over it. Raises RunError where this version of ftrun refuses it.
    """
    tree = deepcopy(lock["recipe"]["merged"])
    for key, facts in found["data"].items():
        _set(tree, f"{key}.path", facts["written"])
    for key, facts in {**found["models"], **found["code"]}.items():
        _set(tree, key, facts["written"])
    if commit := lock["models"]["model.path"].get("commit"):
        tree["model"]["revision"] = commit
    for section, values in changes.items():
        tree[section] = {**tree.get(section, {}), **values} if isinstance(values, dict) else values
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), encoding="utf-8")
    try:
        return load_recipe(path)
    except RecipeError as error:
        raise RunError(
            f"the recipe of {lock['name']} is none for this version of ftrun ({error.mistakes[0].message}); "
            "repeat it with the packages of its record: --install"
        ) from error


def describe_present(file: RecipeFile, lock: Lock, found: Mapping[str, Any]) -> dict[str, Any]:
    """What a lock says, of here and now, as far as it is known without loading a model."""
    resolved = resolve(file.recipe)
    segment = make_segment(Path(lock["recipe"]["place"]), inspect_machine(Path(resolved.output)), None)
    return {
        **found,
        "resolved": resolved.model_dump(mode="json"),
        "seeds": describe_seeds(resolved),
        "segments": [segment],
    }


def list_foreign(
    lock: Lock, found: Mapping[str, Mapping[str, Facts]], expected: Collection[str]
) -> list[str]:
    """The rows and models that are here with another content than was read, but for those at the places `expected`."""
    return [
        facts["written"]
        for part in ("data", "models")
        for key, facts in lock[part].items()
        if "place" in facts
        and (now := found[part][key]).get("place") not in expected
        and contents(now.get("files", {})) != contents(facts["files"])
    ]


def contents(files: Mapping[str, Facts]) -> dict[str, str]:
    """What is in files by their names; a file alone is the same under any name."""
    if len(files) == 1:
        (only,) = files.values()
        return {"": only["sha256"]}
    return {name: facts["sha256"] for name, facts in files.items()}


def _locate_data(facts: Facts, lock: Lock, search: Search) -> Facts:
    if "hub" in facts:
        return {"written": facts["written"], "hub": facts["hub"]}  # its rows are compared once they are read
    written = Path(facts["written"])
    places = [Path(facts["place"]), Path(lock["recipe"]["place"], written).expanduser()]
    if search.data is not None:
        places = [search.data / _inside(written), search.data / written.name, *places]
    candidates = [(place, describe_source(place)) for place in places if place.exists()]
    return _choose(facts, candidates)


def _locate_model(facts: Facts, lock: Lock, search: Search) -> Facts:
    name = facts["written"]
    if "hub" in facts:
        return {"written": name, **describe_reference(facts["hub"], facts["commit"])}
    if name == "tiny":
        from ftrun.runner.tiny import locate

        return {"written": name, **describe_reference(str(locate()), None)}
    if place := search.replaced.get(facts["place"]):
        return {"written": place, **describe_reference(place, None)}
    candidates = []
    for folder in _list_model_places(facts, lock, search):
        if folder.is_dir():
            found = describe_reference(str(folder), None)
            candidates.append((folder, found["files"]))
    chosen = _choose(facts, candidates)
    if "base" in facts and "place" in chosen:
        chosen["base"] = describe_reference(chosen["place"], None).get("base", {"files": {}})
    return chosen


def _list_model_places(facts: Facts, lock: Lock, search: Search) -> Iterable[Path]:
    name, place = facts["written"], Path(facts["place"])
    if search.data is not None:
        named = _inside(Path(name.removeprefix("run:")))
        for one in (named, Path(named.name), Path(place.parent.name), Path(place.name)):
            yield from (search.data / one / "model", search.data / one)
    yield from (place, Path(lock["recipe"]["place"], name).expanduser())
    if name.startswith("run:"):
        from ftrun.runner.tracking.lookup import find_model

        try:
            yield find_model(name.removeprefix("run:"), search.uri)
        except TrackingError:
            return


def _locate_code(key: str, facts: Facts, search: Search) -> Facts:
    """The recorded copy, or, where a secret was taken out of it, the file itself."""
    copy = search.record / FILES / key / facts["name"]
    places = [copy, Path(facts["place"])]
    if search.data is not None:
        places.append(search.data / facts["name"])
    there = [place for place in places if place.is_file()]
    equal = [place for place in there if digest_file(place) == facts["sha256"]]
    if not there:
        return {**facts, "sha256": None}
    chosen = (equal or there)[0]
    _, colon, function = facts["written"].rpartition(":")
    written = f"{chosen}:{function}" if colon and key.startswith("reward.") else str(chosen)
    return {**facts, "written": written, "place": str(chosen), "sha256": digest_file(chosen)}


def _choose(facts: Facts, candidates: list[tuple[Path, dict[str, Facts]]]) -> Facts:
    """The first candidate of the same content, else the first, else nothing but what is written."""
    if not candidates:
        return {"written": facts["written"]}
    equal = [one for one in candidates if contents(one[1]) == contents(facts["files"])]
    place, files = (equal or candidates)[0]
    return {"written": str(place.absolute()), "place": str(place.absolute()), "files": files}


def _inside(path: Path) -> Path:
    """A path as it is looked for in another folder: without its root and without `..`."""
    return Path(*(part for part in path.parts if part not in (path.anchor, "..", ".", "~")))


def _set(tree: Any, key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for name in parents:
        tree = tree[int(name)] if isinstance(tree, list) else tree[name]
    if isinstance(tree, list):
        tree[int(last)] = value
    else:
        tree[last] = value
