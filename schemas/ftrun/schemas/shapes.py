"""The keys that a recipe's models know, and where each belongs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from ftrun.schemas.nodes import Keys, dotted
from ftrun.schemas.settings import ALIASES
from ftrun.schemas.spelling import nearest

Homes = Mapping[str, list[str]]


def shapes_at(kind: type[BaseModel], keys: Keys) -> list[Any]:
    """The types that a value at this path may have: the members, where it is a union."""
    shapes: list[Any] = [kind]
    for key in keys:
        shapes = [inner for shape in shapes for inner in _inside(shape, key)]
    return shapes


def fields_of(shapes: Iterable[Any]) -> list[str]:
    """The keys that the models among these types have."""
    return [name for shape in shapes if is_model(shape) for name in shape.model_fields]


def is_model(shape: Any) -> bool:
    """Whether a type is a pydantic model."""
    return isinstance(shape, type) and issubclass(shape, BaseModel)


def homes_of(kind: type[BaseModel], settings: Mapping[str, Iterable[str]]) -> Homes:
    """Each key that a recipe knows anywhere, with the sections that it belongs under ("" is the top).

    `settings` holds the keys of sections that have no model, by the path of the section.
    """
    homes: dict[str, list[str]] = defaultdict(list)
    for section, key in _fields_below(kind, ""):
        homes[key].append(section)
    for section, keys in settings.items():
        for key in keys:
            homes[key].append(section)
    return homes


def home_for(key: str, here: Keys, homes: Homes) -> str | None:
    """What to do with a key that is unknown here and known elsewhere."""
    known = [home for home in homes.get(key, ()) if home != _section(here)]
    if not known:
        return None
    places = [f"under `{home}:`" if home else "at the top of the file" for home in known]
    return f"It belongs {' or '.join(places)}."


def meant_by(key: str, here: Keys, siblings: list[str], homes: Homes) -> str:
    """What to do with an unknown key: the place where it is known, a key with a name like it, or the keys
    that are known here."""
    if home := home_for(key, here, homes):
        return home
    if near := nearest(key, siblings):
        return f"Did you mean `{near}`?"
    elsewhere = ALIASES.get(key) or nearest(key, homes, cutoff=0.8)
    if elsewhere and elsewhere in homes:
        path = f"{homes[elsewhere][0]}.{elsewhere}".lstrip(".")
        return f"Did you mean `{path}`?"
    return f"Remove it. Known here: {', '.join(siblings)}." if siblings else "Remove it."


def _section(keys: Keys) -> str:
    return dotted(tuple(key for key in keys if isinstance(key, str)))


def _fields_below(shape: Any, section: str) -> Iterator[tuple[str, str]]:
    if is_model(shape):
        for name, field in shape.model_fields.items():
            yield section, name
            for inner in _members(field.annotation):
                yield from _fields_below(inner, f"{section}.{name}".lstrip("."))
    elif get_origin(shape) is list:
        for inner in _members(get_args(shape)[0]):
            yield from _fields_below(inner, section)


def _inside(shape: Any, key: str | int) -> Iterator[Any]:
    if is_model(shape) and key in shape.model_fields:
        yield from _members(shape.model_fields[key].annotation)
    elif get_origin(shape) is list and isinstance(key, int):
        yield from _members(get_args(shape)[0])
    elif get_origin(shape) is dict:
        yield from _members(get_args(shape)[1])


def _members(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Annotated:
        yield from _members(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    else:
        yield annotation
