"""`stage:NAME`, where a recipe takes a model: the model that an earlier stage of the pipeline makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from ftrun.schemas.nodes import Keys
from ftrun.schemas.sections import BaseRecipe

RecipeT = TypeVar("RecipeT", bound=BaseRecipe)

PREFIX = "stage:"
# Sections in which a text that begins so is no model: names, tags and reasons are free text.
NO_MODELS = frozenset({"name", "method", "extends", "data", "training", "preflight", "tracking", "output"})


def stages_named(tree: Mapping[str, Any]) -> Iterator[tuple[Keys, str]]:
    """The place of each `stage:NAME` in a recipe, and the name."""
    for key, value in tree.items():
        if key not in NO_MODELS:
            yield from _named((key,), value)


def with_models(recipe: RecipeT, models: Mapping[str, str]) -> RecipeT:
    """The recipe with each `stage:NAME` replaced by `models[NAME]`. Raises KeyError for a name without one."""
    tree = recipe.model_dump()
    replaced = {
        key: value if key in NO_MODELS else _replaced(value, models.__getitem__)
        for key, value in tree.items()
    }
    return type(recipe).model_validate(replaced)


def _named(keys: Keys, value: Any) -> Iterator[tuple[Keys, str]]:
    if isinstance(value, str) and value.startswith(PREFIX):
        yield keys, value.removeprefix(PREFIX)
    for key, inner in _children(value):
        yield from _named((*keys, key), inner)


def _children(value: Any) -> Iterator[tuple[str | int, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from enumerate(value)


def _replaced(value: Any, find: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {key: _replaced(inner, find) for key, inner in value.items()}
    if isinstance(value, list):
        return [_replaced(inner, find) for inner in value]
    if isinstance(value, str) and value.startswith(PREFIX):
        return find(value.removeprefix(PREFIX))
    return value
