"""Single keys of a recipe text changed or added, with everything else as it was, byte for byte.

PyYAML composes nodes, which know where each value begins and ends; a change is a splice at these marks. What
the new text says is read back and compared, so a splice that goes wrong is refused and never written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from yaml import (
    CollectionNode,
    MappingNode,
    MarkedYAMLError,
    Node,
    SafeLoader,
    ScalarNode,
    SequenceNode,
    compose,
)

from ftrun.schemas.errors import FtrunError, RecipeError
from ftrun.schemas.nodes import plain
from ftrun.schemas.notation import BREAK, as_yaml, key_as_yaml

STEP = 2  # columns by which a section is indented where the file shows no other

_BLANK_LINE = re.compile(r"(?:\r\n|\n)[ \t]*(?:\r\n|\n)")
_COLON = re.compile(r"[ \t]*:")


def patch_text(text: str, changes: Sequence[tuple[str, Any]]) -> str:
    """The YAML text with each key set to its value, in turn.

    Keys are dotted, entries of lists go by number: `data.train.0.path`. A key that is not written is added:
    after the last entry of its section, in the section's style, or with its section at the end of the file.
    Comments inside a replaced mapping or list go with it.

    Raises RecipeError where the text is no YAML, and FtrunError where the change cannot be made without
    changing other keys, such as those that share an anchor.
    """
    for key, value in changes:
        text = _patched(text, key, value)
    return text


@dataclass(frozen=True)
class _Place:
    """How far a path leads into a text: the last node on it, the key of that node (None for the root and for
    entries of lists), whether the node stands in a flow collection, and the names that are not written."""

    node: Node
    key: Node | None
    in_flow: bool
    missing: tuple[str, ...]


def _patched(text: str, key: str, value: Any) -> str:
    names = tuple(key.split("."))
    old = plain(text, key).value
    wanted = _canonical(_with(old, names, value, key))
    if wanted == _canonical(old):
        return text
    root = _composed(text, key)
    patched = _spliced(text, root, _find(root, names), value, key)
    try:
        is_as_wanted = _canonical(plain(patched, key).value) == wanted
    except RecipeError:
        is_as_wanted = False
    if not is_as_wanted:
        raise _by_hand(key, "what stands around it, such as an anchor or an alias, would change too")
    return patched


def _composed(text: str, key: str) -> Node:
    """The nodes, by PyYAML's parser in Python: the marks of libyaml's differ where no value is written."""
    try:
        root = compose(text, SafeLoader)
    except MarkedYAMLError as error:  # a tab behind a colon is one of few things that libyaml alone reads
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise _by_hand(key, f"not every YAML reader takes line {line} of the file") from None
    assert root is not None, "a text that was read has a root"
    return root


def _by_hand(key: str, reason: str) -> FtrunError:
    return FtrunError(f"`{key}` cannot be set by itself: {reason}; edit it by hand.")


def _canonical(value: Any) -> str:
    """A value as text that tells 1, 1.0 and true apart."""
    return json.dumps(value, sort_keys=True)


def _with(holder: Any, names: Sequence[str], value: Any, key: str) -> Any:
    """A copy of what the text says, with the value at the path."""
    if not names:
        return value
    name, rest = names[0], names[1:]
    if isinstance(holder, list):
        if not name.isdecimal() or int(name) >= len(holder):
            raise _by_hand(key, f"the file's list has no entry {name}")
        index = int(name)
        return [*holder[:index], _with(holder[index], rest, value, key), *holder[index + 1 :]]
    if holder is not None and not isinstance(holder, dict):
        raise _by_hand(key, f"there is a value where `{name}` would go")
    holder = holder or {}
    if name.isdecimal() and name not in holder:
        raise _by_hand(key, f"the file does not write the list that entry {name} is of")
    return {**holder, name: _with(holder.get(name), rest, value, key)}


def _find(root: Node, names: tuple[str, ...]) -> _Place:
    place = _Place(root, None, False, names)
    while place.missing:
        node, name = place.node, place.missing[0]
        child: tuple[Node | None, Node] | None = None
        if isinstance(node, MappingNode):
            child = next((pair for pair in node.value if pair[0].value == name), None)
        elif isinstance(node, SequenceNode):
            child = None, node.value[int(name)]
        if child is None:
            return place
        in_flow = isinstance(node, CollectionNode) and bool(node.flow_style)
        place = _Place(child[1], child[0], place.in_flow or in_flow, place.missing[1:])
    return place


def _spliced(text: str, root: Node, place: _Place, value: Any, key: str) -> str:
    node, missing = place.node, place.missing
    if not missing:
        return _with_value(text, place, value, key)
    if isinstance(node, MappingNode) and node.flow_style:
        return _with_flow_entry(text, node, missing, value)
    if isinstance(node, MappingNode) and node is root:
        return _with_section(text, node, missing, value)
    if isinstance(node, MappingNode):
        column = node.value[0][0].start_mark.column
        return _with_line(text, _end(node, text), column, _entry(missing, value))
    if place.key is not None and not place.in_flow and _is_unwritten(node):
        column = place.key.start_mark.column + _step(root)
        return _with_line(text, node.start_mark.index, column, _entry(missing, value))
    return _with_value(text, place, _nested(missing, value), key)


def _with_value(text: str, place: _Place, value: Any, key: str) -> str:
    """The text with another value in the place of a node's."""
    node, new = place.node, as_yaml(value, in_flow=place.in_flow)
    start, end = node.start_mark.index, _end(node, text)
    if _is_unwritten(node):
        return f"{text[:start]} {new}{text[start:]}"
    is_block = isinstance(node, CollectionNode) and not node.flow_style
    if not is_block or place.key is None or place.key.end_mark.line == node.start_mark.line:
        return text[:start] + new + text[end:]
    # The lines of the block go, and the value stands behind its key, before what comments that line.
    colon = _COLON.match(text, place.key.end_mark.index)
    if colon is None:
        raise _by_hand(key, "its key is written with `?`")
    above = start - node.start_mark.column
    above -= 2 if text.endswith("\r\n", 0, above) else 1
    return f"{text[: colon.end()]} {new}{text[colon.end() : above]}{text[_line_end(text, end) :]}"


def _with_flow_entry(text: str, node: MappingNode, missing: tuple[str, ...], value: Any) -> str:
    entry = _entry(missing, value, in_flow=True)
    if not node.value:
        at = text.rindex("}", 0, node.end_mark.index)
        return f"{text[:at]}{entry}{text[at:]}"
    at = _last_end(node, text)
    return f"{text[:at]}, {entry}{text[at:]}"


def _with_section(text: str, root: MappingNode, missing: tuple[str, ...], value: Any) -> str:
    """The text with a key of the top level at its very end: comments there belong to the section above."""
    newline = _newline(text)
    margin = " " * root.value[0][0].start_mark.column
    lines = [margin + _entry(missing, value)]
    if len(missing) > 1:
        lines = [f"{margin}{key_as_yaml(missing[0], in_flow=False)}:"]
        lines.append(f"{margin}{' ' * _step(root)}{_entry(missing[1:], value)}")
        if _BLANK_LINE.search(text) and not text.endswith(newline * 2):
            lines.insert(0, "")
    if text.endswith(newline):
        return text + newline.join(lines) + newline
    return text + newline + newline.join(lines)


def _with_line(text: str, index: int, column: int, entry: str) -> str:
    """The text with a line below the one that holds `index`."""
    at = _line_end(text, index)
    return f"{text[:at]}{_newline(text)}{' ' * column}{entry}{text[at:]}"


def _entry(missing: tuple[str, ...], value: Any, *, in_flow: bool = False) -> str:
    value = _nested(missing[1:], value)
    return f"{key_as_yaml(missing[0], in_flow=in_flow)}: {as_yaml(value, in_flow=in_flow)}"


def _nested(names: tuple[str, ...], value: Any) -> Any:
    for name in reversed(names):
        value = {name: value}
    return value


def _is_unwritten(node: Node) -> bool:
    """Whether nothing stands where the value would: `training:`."""
    return isinstance(node, ScalarNode) and node.start_mark.index == node.end_mark.index


def _end(node: Node, text: str) -> int:
    """Where the last character of a value is passed. The marks of blocks lie behind the blank lines and the
    comments that follow."""
    if isinstance(node, CollectionNode) and not node.flow_style:
        return _last_end(node, text)
    start: int = node.start_mark.index
    return start + len(text[start : node.end_mark.index].rstrip())


def _last_end(node: CollectionNode, text: str) -> int:
    """Where the last entry of a mapping or a list ends. That of an alias is not known, since its node is the
    anchored one: then it is where its key ends, or its list begins."""
    last = node.value[-1]
    if isinstance(node, MappingNode):
        begun: int = last[0].end_mark.index
        return max(begun, _end(last[1], text))
    begun = node.start_mark.index
    return max(begun, _end(last, text))


def _step(root: Node) -> int:
    """By how many columns this file indents its sections."""
    for key, section in root.value if isinstance(root, MappingNode) else ():
        if isinstance(section, MappingNode) and not section.flow_style:
            step: int = section.value[0][0].start_mark.column - key.start_mark.column
            return step
    return STEP


def _line_end(text: str, index: int) -> int:
    found = BREAK.search(text, index)
    return found.start() if found else len(text)


def _newline(text: str) -> str:
    found = BREAK.search(text)
    return found.group() if found else "\n"
