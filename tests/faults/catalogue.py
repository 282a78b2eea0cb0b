"""All faults: those that are planted and those that are not."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from tests.faults.plants import Planting, Unplanted

MODULES = (
    "text",
    "data",
    "model",
    "recipe",
    "preferences",
    "ppo",
    "training",
    "own_text",
    "own_model",
    "own_recipe",
    "own_pairs",
    "own_ppo",
    "own_rows",
    "third_model",
    "third_model_files",
    "third_model_settings",
    "third_ppo",
    "third_rows",
    "third_rows_sets",
    "third_rows_pairs",
    "fourth_templates",
    "fourth_text",
    "fourth_pairs",
    "fourth_settings",
)


def load_plantings() -> tuple[Planting, ...]:
    """Every planting, in the order of its fault's id."""
    found = (one for one in _values() if isinstance(one, Planting))
    return tuple(sorted(found, key=lambda one: one.fault.id))


def load_unplanted() -> tuple[Unplanted, ...]:
    """Every fault that is not planted, in the order of the ids."""
    found = (one for one in _values() if isinstance(one, Unplanted))
    return tuple(sorted(found, key=lambda one: one.fault.id))


def _values() -> Iterator[object]:
    for name in MODULES:
        module = importlib.import_module(f"tests.faults.{name}")
        for value in vars(module).values():
            if not isinstance(value, Planting) or value.module == module.__name__:
                yield value
