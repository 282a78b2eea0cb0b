"""Keys laid over a recipe: `--set key.path=value` of the command line, `set:` of a pipeline's stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ftrun.schemas.errors import RecipeError
from ftrun.schemas.layers import Layer
from ftrun.schemas.mistake import Mistake, Where
from ftrun.schemas.nodes import MAX_DEPTH, Keys, dotted, plain

FILE = "--set"
EXAMPLE = "Write `key.path: value`, such as `training.learning_rate: 1e-5`."


def overridden(layer: Layer, sets: Sequence[str]) -> tuple[Layer, list[Mistake]]:
    """The layer with every `key.path=value` in place, and a mistake for each that cannot be read.

    A value is read as YAML reads it behind a key; entries of lists go by number (`data.train.0.path=x`), and
    parents that are missing are made.
    """
    mistakes = []
    for text in sets:
        key, _, value = text.partition("=")
        try:
            layer = _with(layer, _names(text), _value(value), {(): Where(FILE)})
        except _MalformedError as error:
            shown = text if text.isprintable() else ascii(text)
            where = Where(FILE, key=key.strip() if key.isprintable() else None)
            mistakes.append(Mistake("set_malformed", f"`--set {shown}`: {error}", where, error.fix))
    return layer, mistakes


def set_over(
    layer: Layer, written: Mapping[str, Any], places: Mapping[Keys, Where]
) -> tuple[Layer, list[Mistake]]:
    """The layer with each dotted key of `set:` in place, and a mistake for each that cannot be.

    `places` holds where each key stands, `("model.path",)`, and the keys and entries within its value.
    """
    mistakes = []
    for key, value in written.items():
        within = {keys[1:]: where for keys, where in places.items() if keys[:1] == (key,)}
        try:
            layer = _with(layer, _path(key, EXAMPLE), value, within)
        except _MalformedError as error:
            mistakes.append(Mistake("set_malformed", f"`{key}`: {error}", within[()], error.fix))
    return layer, mistakes


class _MalformedError(Exception):
    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


def _names(text: str) -> list[str]:
    fix = "Write `--set key.path=value`, such as `--set training.learning_rate=1e-5`."
    key, sign, _ = text.partition("=")
    if not sign:
        raise _MalformedError("There is no `=`.", fix)
    return _path(key, fix)


def _path(key: str, fix: str) -> list[str]:
    names = key.strip().split(".")
    if not all(names) or not key.isprintable() or len(names) > MAX_DEPTH:
        raise _MalformedError("The key is no path of keys joined by dots.", fix)
    if names[0] == "extends":
        raise _MalformedError("`extends` belongs in the file.", "Write it into the recipe.")
    return names


def _value(text: str) -> Any:
    fix = "Put the value in quotes for YAML as well: `--set 'key=\"value\"'`."
    if not text.strip():
        return None
    try:
        read = plain(text, FILE)
    except RecipeError as error:
        raise _MalformedError(error.mistakes[0].message, fix) from None
    if read.mistakes:
        raise _MalformedError(read.mistakes[0].message, read.mistakes[0].fix)
    if isinstance(read.value, dict | list) and not text.lstrip().startswith(("{", "[")):
        raise _MalformedError("The value reads as keys or as a list.", fix)
    return read.value


def _with(layer: Layer, names: list[str], value: Any, within: Mapping[Keys, Where]) -> Layer:
    """The layer with a value at a path. `within` holds the place of the value, `()`, and of what is in it."""
    tree = _placed(layer.tree, names, value)
    keys = _keys(tree, names)
    origins = {known: where for known, where in layer.origins.items() if known[: len(keys)] != keys}
    for length in range(1, len(keys) + 1):
        origins.setdefault(keys[:length], replace(within[()], key=dotted(keys[:length])))
    for inner, where in within.items():
        origins.setdefault((*keys, *inner), replace(where, key=dotted((*keys, *inner))))
    return Layer(tree, origins)


def _keys(holder: Any, names: list[str]) -> Keys:
    """The path with the numbers of list entries as numbers."""
    if not names:
        return ()
    if isinstance(holder, list):
        index = int(names[0])
        return (index, *_keys(holder[index], names[1:]))
    return (names[0], *_keys(holder[names[0]], names[1:]))


def _placed(holder: Any, names: list[str], value: Any, above: Keys = ()) -> Any:
    """A copy of `holder` with the value at the path."""
    if not names:
        return value
    name, rest = names[0], names[1:]
    is_number = name.isascii() and name.isdecimal() and len(name) <= len(str(MAX_DEPTH * 1000))
    if holder is None:
        holder = [] if is_number else {}
    if isinstance(holder, dict):
        return {**holder, name: _placed(holder.get(name), rest, value, (*above, name))}
    if not isinstance(holder, list):
        raise _MalformedError(
            f"`{dotted(above)}` holds a value, and no keys.", f"Set `{dotted(above)}` itself."
        )
    count = len(holder)
    if not is_number or int(name) > count:
        fix = f"Name one of its {count} entries by number from 0, or {count} to add one."
        raise _MalformedError(f"`{dotted(above)}` is a list without an entry `{name}`.", fix)
    index = int(name)
    entry = _placed(holder[index] if index < count else None, rest, value, (*above, index))
    return [*holder[:index], entry, *holder[index + 1 :]]
