"""What `ftrun diff` compares: a recipe's file, or a run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from ftrun.runner.plan.settings import OWNERS, describe_origin
from ftrun.runner.story.environment import describe_environment
from ftrun.runner.story.figures import find_figures, tell_seconds
from ftrun.runner.story.history import History, Series
from ftrun.runner.story.source import find_history, read_stage
from ftrun.runner.tracking.journal import now_ms
from ftrun.runner.weights import digest_file
from ftrun.schemas.errors import RecipeError
from ftrun.schemas.load import RecipeFile, load_recipe
from ftrun.schemas.nodes import Keys, dotted, plain
from ftrun.schemas.overrides import FILE
from ftrun.schemas.pipeline import is_pipeline, load_pipeline
from ftrun.schemas.resolve import resolve
from ftrun.schemas.settings import defaults, read_table

Kind = Literal["recipe", "pipeline", "run", "pipeline run"]
Value = TypeVar("Value")

NO_SETTINGS = frozenset({"name", "output", "tracking", "preflight", "extends"})
"""Sections that no result depends on."""

NO_CURVES = re.compile(r"(?:guards|system)/.*|.*(?:runtime|per_second|epoch|total_flos|train_loss)")
"""Metrics that measure time or progress, or say once what others say at each step."""


@dataclass(frozen=True)
class Setting:
    """A value as it holds, and where it was written."""

    value: Any
    origin: str

    @property
    def is_default(self) -> bool:
        return self.origin.startswith("default")


@dataclass(frozen=True)
class Source:
    """Rows that train or are held out. `digest` is None where it is not known."""

    name: str
    digest: str | None
    rows: int | None


@dataclass(frozen=True)
class Side:
    """One of the two things that are compared."""

    label: str
    kind: Kind
    method: str
    """Empty of a pipeline."""

    settings: Mapping[str, Setting]
    data: Mapping[str, Source]
    """Sources by their place: `training 1`, `held out 1`."""

    stages: tuple[str, ...] = ()
    """Of a pipeline; its settings and data stand behind the name of their stage."""

    environment: Mapping[str, str] = field(default_factory=dict)
    has_lock: bool = False
    """Whether the environment is told whole, by a lock."""

    series: Mapping[str, Series] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)


def read_side(reference: str, uri: str | None) -> Side:
    """A recipe where `reference` is a file, else a run, as `find_history` finds it.

    Raises RecipeError, TrackingError where there is no such run, MissingExtra where only MLflow could tell.
    """
    path = Path(reference)
    if path.is_file() or (path.suffix in (".yaml", ".yml") and not path.is_dir()):
        return _read_pipeline(path) if is_pipeline(path) else _read_recipe(path)
    return _read_run(find_history(reference, uri, "diff"))


def _read_recipe(path: Path) -> Side:
    file = load_recipe(path)
    return Side(str(path), "recipe", file.recipe.method, settings_of(file), _sources_of(file))


def _read_pipeline(path: Path) -> Side:
    stages = load_pipeline(path).stages
    names = tuple(stage.name for stage in stages)
    order = {"stages": Setting(" → ".join(names), path.name)}
    settings = {stage.name: settings_of(stage.file, path) for stage in stages}
    data = {stage.name: _sources_of(stage.file) for stage in stages}
    return Side(str(path), "pipeline", "", order | _joined(settings), _joined(data), names)


def _joined(parts: Mapping[str, Mapping[str, Value]]) -> dict[str, Value]:
    """What stages have, each behind the name of its stage."""
    return {f"{stage}.{name}": one for stage, part in parts.items() for name, one in part.items()}


def settings_of(file: RecipeFile, pipeline: Path | None = None) -> dict[str, Setting]:
    """Every setting of a recipe by its dotted key, resolved, with where it came from."""
    recipe = resolve(file.recipe)
    above = None if pipeline is None else str(pipeline)
    found = {}
    for keys, value in _leaves(recipe.model_dump(mode="json")):
        where = file.origins.get(keys)
        origin = (
            _default_of(keys, recipe.method) if where is None else describe_origin(where, file.path, above)
        )
        found[dotted(keys)] = Setting(value, origin)
    return found


def _default_of(keys: Keys, method: str) -> str:
    return f"default of {OWNERS[method] if keys[0] == 'training' else 'ftrun'}"


def _sources_of(file: RecipeFile) -> dict[str, Source]:
    """The sources of a recipe, with the digests of those that are a file here."""
    data: Any = file.recipe.model_dump(mode="json")["data"]
    train = data.get("train") or []
    held = data.get("eval")
    parts = {"training": train, "held out": train if isinstance(held, dict) else held or []}
    return {
        f"{part} {number}": _source(str(one["path"]), file.folder)
        for part, sources in parts.items()
        for number, one in enumerate(sources, 1)
    }


def _source(path: str, folder: Path) -> Source:
    place = folder / Path(path).expanduser()
    return Source(path, digest_file(place) if place.is_file() else None, None)


def _read_run(history: History) -> Side:
    run = history.run
    if run.is_pipeline:
        return _read_pipeline_run(history)
    return Side(
        label=run.name,
        kind="run",
        method=run.method,
        settings=_settings_of_run(history),
        data=_data_of_run(history),
        environment=describe_environment(history),
        has_lock=bool(history.files.lock),
        series={name: one for name, one in history.series.items() if not NO_CURVES.fullmatch(name)},
        results=_results_of(history),
    )


def _read_pipeline_run(history: History) -> Side:
    """The stages that ran below a pipeline's run; what they logged is compared run by run."""
    stages = {one.tags.get("ftrun.stage", one.name): read_stage(one) for one in history.children}
    order = {"stages": Setting(" → ".join(stages), "those that ran")}
    return Side(
        history.run.name,
        "pipeline run",
        "",
        order | _joined({name: _settings_of_run(one) for name, one in stages.items()}),
        _joined({name: _data_of_run(one) for name, one in stages.items()}),
        tuple(stages),
        environment=describe_environment(history),
        results=_joined({name: _results_of(one) for name, one in stages.items()}),
    )


def _settings_of_run(history: History) -> dict[str, Setting]:
    """The settings that a run used. Where each came from follows from the recipe as it was written, the command, and
    the defaults; a value that none of them explains is of a base."""
    method = history.run.method
    written, given = _written(history.files.written), _given(history.files.lock)
    usual = usual_settings(method) if method in OWNERS else {}
    found = {}
    for keys, value in _leaves(history.files.settings):
        key = dotted(keys)
        if f"ftrun.input.{key}" in history.run.tags:
            origin = f"the model of {history.run.tags[f'ftrun.input.{key}'].partition(' ')[0]}"
        elif key in given:
            origin = FILE
        elif key in written and written[key].value == value:
            origin = written[key].origin
        elif key in usual and usual[key] == value:
            origin = _default_of(keys, method)
        else:
            origin = "a base, or what runs it"
        found[key] = Setting(value, origin)
    return found


def usual_settings(method: str) -> dict[str, Any]:
    """What every key of a method's recipe is where it is not written, by its dotted key."""
    kind = import_module(f"ftrun.schemas.methods.{method}").Recipe
    sections = _defaults_of(kind) | {"training": defaults(read_table(method))}
    return {dotted(keys): value for keys, value in _leaves(sections)}


def _defaults_of(kind: type[BaseModel]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, info in kind.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            found[name] = _defaults_of(info.annotation)
        elif not info.is_required():
            found[name] = to_jsonable_python(info.get_default(call_default_factory=True))
    return found


def _given(lock: Mapping[str, Any]) -> frozenset[str]:
    """The keys that the command set."""
    try:
        words = shlex.split(lock["segments"][0]["command"])
    except (KeyError, IndexError, TypeError, ValueError):
        return frozenset()
    given = [text for option, text in pairwise(words) if option in ("--set", "-s")]
    given += [word.removeprefix("--set=") for word in words if word.startswith("--set=")]
    return frozenset(text.partition("=")[0].strip() for text in given)


def _written(text: str) -> dict[str, Setting]:
    """What a recipe's text says itself, each value with its line."""
    try:
        read = plain(text, "recipe.yaml")
    except RecipeError:
        return {}
    if not isinstance(read.value, dict):
        return {}
    return {
        dotted(keys): Setting(value, f"recipe.yaml:{read.keys[keys].line}")
        for keys, value in _leaves(read.value)
        if keys in read.keys
    }


def _data_of_run(history: History) -> dict[str, Source]:
    found: dict[str, Source] = {}
    for part, context in (("training", "training"), ("held out", "eval")):
        tracked = [one for one in history.data if one.context == context]
        found |= {
            f"{part} {number}": Source(one.source, one.digest, one.rows)
            for number, one in enumerate(tracked, 1)
        }
    return found


def _results_of(history: History) -> dict[str, Any]:
    run = history.run
    loss = run.latest.get("train/loss")
    results: dict[str, Any] = {
        "state": run.state,
        "steps": run.step or None,
        "time": tell_seconds(run.seconds(now_ms())),
        "last loss": None if loss is None else loss[1],
        **{f"held out: {one.name}": one.value for one in find_figures(run)},
        "guard events": run.guard_events,
        "weights": run.tags.get("ftrun.weights.digest"),
    }
    return {name: value for name, value in results.items() if value is not None}


def _leaves(value: Any, keys: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """The values of a tree by their keys, without the sections that are no settings. A list of plain values is one."""
    children: Any = ()
    if isinstance(value, Mapping):
        children = value.items()
    elif isinstance(value, list) and any(isinstance(one, dict | list) for one in value):
        children = enumerate(value)
    if not children:
        yield keys, value
    for key, inner in children:
        if keys or key not in NO_SETTINGS:
            yield from _leaves(inner, (*keys, key))
