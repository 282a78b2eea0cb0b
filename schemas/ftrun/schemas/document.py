"""A recipe file as it is written: its text, its values and the place of each."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftrun.schemas.errors import RecipeError
from ftrun.schemas.mistake import Mistake, Where
from ftrun.schemas.nodes import Keys, plain
from ftrun.schemas.spelling import nearest

MAX_BYTES = 1_000_000
_RECIPES = (".yaml", ".yml")


@dataclass(frozen=True)
class Document:
    """One file.

    `positions` holds the place of each key and list entry by its path, `values` that of each value (the whole
    file is `()`). `numbers_from_text` are the numbers that YAML 1.1 calls text, such as `2e-5`, as they are
    written. `mistakes` are those that left the rest readable: duplicate keys, tags that are not plain YAML.
    """

    path: Path
    text: str
    tree: dict[str, Any]
    positions: Mapping[Keys, Where]
    values: Mapping[Keys, Where]
    numbers_from_text: tuple[tuple[Keys, str], ...]
    mistakes: tuple[Mistake, ...]


def read_document(path: str | Path) -> Document:
    """Read a recipe file. A byte-order mark at its start is dropped; `text` keeps the line ends.

    Raises RecipeError where no keys can be read: there is no such file, it is empty, larger than MAX_BYTES,
    not UTF-8, not YAML, or holds something other than keys.
    """
    path = Path(path)
    text = _decoded(_content(path), path)
    read = plain(text, str(path))
    if not isinstance(read.value, dict):
        raise _no_keys(read.value, read.values[()], path)
    return Document(path, text, read.value, read.keys, read.values, read.numbers_from_text, read.mistakes)


def _content(path: Path) -> bytes:
    """At most MAX_BYTES, whatever the path leads to."""
    try:
        if path.is_dir():
            raise _refusal(path, "This is a folder.", f"Name a recipe in it{_examples(path)}.")
        if path.stat().st_size > MAX_BYTES:
            raise _too_large(path)
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise _missing(path) from None
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL in it
        reason = error.strerror if isinstance(error, OSError) else None
        message = f"The file cannot be read: {reason or error}."
        raise _refusal(path, message, "Correct the path, or the permissions of the file.") from None
    if len(content) > MAX_BYTES:  # a pipe tells no size
        raise _too_large(path)
    return content


def _decoded(content: bytes, path: Path) -> str:
    fix = "Save it as UTF-8 text."
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise _refusal(path, "The file is UTF-16, and not UTF-8.", fix)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        start = content.rfind(b"\n", 0, error.start) + 1
        line = content.count(b"\n", 0, error.start) + 1
        column = len(content[start : error.start].decode("utf-8-sig")) + 1
        message = f"The file is not UTF-8: byte {error.start} is 0x{content[error.start]:02x}."
        where = Where(str(path), line, column)
        raise RecipeError([Mistake("recipe_unreadable", message, where, fix)]) from None


def _no_keys(value: object, where: Where, path: Path) -> RecipeError:
    if value is None:
        return _refusal(path, "The file is empty.", "Write a recipe into it; `ftrun init` makes one.")
    kind = "a list" if isinstance(value, list) else "a single value"
    fix = (
        "Write `key: value` lines, with a space after each colon; `ftrun init` makes a recipe to start from."
    )
    return RecipeError([Mistake("recipe_unreadable", f"The file holds {kind}, and no keys.", where, fix)])


def _missing(path: Path) -> RecipeError:
    folder = path.parent
    if not folder.is_dir():
        return _refusal(path, f"There is no folder `{folder}`.", "Correct the path.")
    close = nearest(path.name, _names(folder))
    fix = f"Did you mean `{folder / close}`?" if close else f"Name a recipe that exists{_examples(folder)}."
    return _refusal(path, "There is no such file.", fix)


def _examples(folder: Path) -> str:
    names = [name for name in _names(folder) if name.endswith(_RECIPES)]
    return f", such as `{folder / names[0]}`" if names else ""


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError:  # a folder that may be entered and not listed: no suggestion then
        return []


def _too_large(path: Path) -> RecipeError:
    message = f"The file is larger than {MAX_BYTES // 1_000_000} MB, and a recipe is a few KB."
    return _refusal(path, message, "Name the recipe, not the data.")


def _refusal(path: Path, message: str, fix: str) -> RecipeError:
    return RecipeError([Mistake("recipe_unreadable", message, Where(str(path)), fix)])
