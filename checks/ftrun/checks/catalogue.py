"""Finding the checks: one module each in the stage folders, and those that other packages bring.

    recipe/ environment/ data/ model/ step/       a folder per stage, a file per fault
    guards/                                       those that run while a recipe trains
    entry points of the group `ftrun.checks`      modules or packages of checks, from anyone

`FTRUN_PLUGINS` limits the second kind to the packages it names (comma separated; empty: none).
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Iterator
from importlib.metadata import entry_points
from types import ModuleType

from ftrun.checks.check import Check
from ftrun.schemas.errors import FtrunError, first_line

STAGE_FOLDERS = ("recipe", "environment", "data", "model", "step")


def load_checks(upto: str = "step") -> tuple[Check, ...]:
    """The checks of the stages up to and including `upto`, in the order of their ids.

    Importing them needs neither torch nor transformers. Raises FtrunError where two share an id, or where a
    package that brings checks cannot be imported.
    """
    folders = STAGE_FOLDERS[: STAGE_FOLDERS.index(upto) + 1]
    found = [one for folder in folders for one in _in_package(f"ftrun.checks.{folder}")]
    found += _from_plugins()
    by_id: dict[str, Check] = {}
    for one in found:
        if one.id in by_id:
            raise FtrunError(f"check id {one.id} is used by {by_id[one.id].module} and by {one.module}")
        by_id[one.id] = one
    return tuple(by_id[id] for id in sorted(by_id))


def load_failures(upto: str = "step") -> tuple[Check, ...]:
    """Of the checks up to a stage, those that say why a stage cannot be built."""
    return tuple(one for one in load_checks(upto) if one.stage.__name__.endswith("Failed"))


def load_guards() -> tuple[Check, ...]:
    """The checks that run while a recipe trains, in the order of their ids."""
    return tuple(sorted(_in_package("ftrun.checks.guards"), key=lambda one: one.id))


def _in_package(name: str) -> Iterator[Check]:
    package = importlib.import_module(name)
    for module in pkgutil.iter_modules(package.__path__, f"{name}."):
        yield from _in_module(importlib.import_module(module.name))


def _in_module(module: ModuleType) -> Iterator[Check]:
    for value in vars(module).values():
        if isinstance(value, Check) and value.module == module.__name__:
            yield value


def _from_plugins() -> Iterator[Check]:
    allowed = os.environ.get("FTRUN_PLUGINS")
    for entry in entry_points(group="ftrun.checks"):
        if allowed is not None and entry.name not in allowed.split(","):
            continue
        try:
            module = entry.load()
        except Exception as error:  # a plugin boundary: anything may go wrong in somebody's module
            raise FtrunError(
                f"the checks of {entry.name} ({entry.value}) cannot be imported: {first_line(error)}. "
                "Mend or remove that package, or leave it out with FTRUN_PLUGINS="
            ) from error
        if hasattr(module, "__path__"):
            yield from _in_package(module.__name__)
        yield from _in_module(module)
