"""A recipe and what it extends as one text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from yaml import MappingNode, SafeLoader, YAMLError, compose

from ftrun.schemas.document import Document
from ftrun.schemas.errors import FtrunError, RecipeError
from ftrun.schemas.nodes import plain
from ftrun.schemas.notation import as_yaml
from ftrun.schemas.patching import patch_text

# Where the schema lies is of interest to the editor of whoever wrote it.
EDITOR_LINE = re.compile(r"# yaml-language-server:.*(?:\r\n|\n|$)")
COPIED = "# Copied by ftrun"


def flatten(document: Document, merged: Mapping[str, Any]) -> str:
    """The text of a recipe that says alone what the file and its bases say together, `merged`.

    A file that extends nothing stays as it is but for a line that names its schema. One that does keeps its own
    lines and comments, and what the bases add stands below, or, where that cannot be written into the text, as a
    text of its own with the comment at the top. Raises FtrunError where neither can be.
    """
    text, file = EDITOR_LINE.sub("", document.text), str(document.path)
    if plain(text, file).value == merged:
        return text
    try:
        whole = patch_text(_without_extends(text), list(_additions((), _own(document), merged)))
    except (FtrunError, YAMLError):  # anchors, an `extends` that shares its line
        whole = ""
    # Keys that hold dots cannot be told from paths, and may have gone elsewhere.
    if not _says(whole, merged, file):
        whole = "".join([*_leading_lines(text), *_lines(merged)])
    if not _says(whole, merged, file):
        raise FtrunError(f"{file} cannot be merged with what it extends; write it as one file")
    return whole


def leading_sentence(text: str) -> str:
    """The first sentence of the comment at the top of a recipe, without what ftrun and editors wrote there."""
    written = (COPIED, "`ftrun ")  # of the second, the commands that a starter names
    lines = [
        line.strip("# \r\n")
        for line in _leading_lines(EDITOR_LINE.sub("", text))
        if not any(mark in line for mark in written)
    ]
    words = " ".join(" ".join(lines).split())
    return re.split(r"(?<=[.!?:]) ", words, maxsplit=1)[0].rstrip(".:") if words else ""


def _own(document: Document) -> dict[str, Any]:
    return {key: value for key, value in document.tree.items() if key != "extends"}


def _without_extends(text: str) -> str:
    """The text without the lines of `extends:`."""
    root = compose(text, SafeLoader)
    for key, value in root.value if isinstance(root, MappingNode) and not root.flow_style else ():
        if key.value == "extends":
            lines = text.splitlines(keepends=True)
            last = max(key.end_mark.line, value.end_mark.line - (value.end_mark.column == 0))
            return "".join([*lines[: key.start_mark.line], *lines[last + 1 :]])
    return text


def _additions(
    above: tuple[str, ...], own: Mapping[str, Any], merged: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    """What the merged values have that the file's own do not, each under its dotted key."""
    for key, value in merged.items():
        mine = own.get(key) if isinstance(own, Mapping) else None
        if isinstance(value, Mapping) and value and (mine is None or isinstance(mine, Mapping)):
            yield from _additions((*above, key), mine or {}, value)
        elif key not in own or mine != value:
            yield ".".join((*above, key)), value


def _leading_lines(text: str) -> list[str]:
    """The comment that a text begins with."""
    found = re.match(r"(?:[ \t]*#[^\n]*(?:\n|$))*", text)
    return found[0].splitlines(keepends=True) if found else []


def _lines(tree: Mapping[str, Any], margin: str = "") -> Iterator[str]:
    """Values as a recipe is written: sections in blocks, all else on a line."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield f"{margin}{as_yaml(key, in_flow=True)}:\n"
            yield from _lines(value, f"{margin}  ")
        else:
            yield f"{margin}{as_yaml(key, in_flow=True)}: {as_yaml(value)}\n"


def _says(text: str, merged: Mapping[str, Any], file: str) -> bool:
    try:
        return bool(plain(text, file).value == merged)
    except RecipeError:
        return False
