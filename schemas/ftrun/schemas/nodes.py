"""YAML text as plain Python values, with the place of every key and value.

PyYAML composes nodes, which know their lines; the values are built from them here, because its constructor
forgets the lines, keeps the last of two equal keys in silence, and makes dates of what looks like one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from yaml import MappingNode, Mark, MarkedYAMLError, Node, ScalarNode, SequenceNode, YAMLError
from yaml.reader import Reader

if TYPE_CHECKING:
    from yaml import SafeLoader
else:
    try:
        from yaml import CSafeLoader as SafeLoader
    except ImportError:  # PyYAML built without libyaml
        from yaml import SafeLoader

from ftrun.schemas.errors import RecipeError
from ftrun.schemas.mistake import Mistake, Where
from ftrun.schemas.syntax import syntax_mistake

Keys = tuple[str | int, ...]

MAX_DEPTH = 50
MAX_NODES = 10_000

_YAML = "tag:yaml.org,2002:"
_TAGS = frozenset(
    _YAML + name
    for name in ("null", "bool", "int", "float", "str", "timestamp", "value", "merge", "map", "seq")
)
_EXPONENT = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+")
_EXPLICIT = re.compile(r"(?:&\S+\s+)?!")


def dotted(keys: Keys) -> str:
    """`("data", "train", 0)` as it is written for people: `data.train.0`."""
    return ".".join(str(key) for key in keys)


@dataclass(frozen=True)
class Plain:
    """What a YAML text says. `keys` holds the place of each key and list entry, `values` that of each value;
    `numbers_from_text` the numbers that YAML 1.1 calls text (`2e-5`), as written. `mistakes` are those that
    left the rest readable."""

    value: Any
    keys: Mapping[Keys, Where]
    values: Mapping[Keys, Where]
    numbers_from_text: tuple[tuple[Keys, str], ...]
    mistakes: tuple[Mistake, ...]


def plain(text: str, file: str) -> Plain:
    """Read one YAML document. `file` names it in places.

    Raises RecipeError where no value can be made of it: bad syntax, no document or several, nested more than
    MAX_DEPTH levels deep, or more than MAX_NODES values once aliases are expanded.
    """
    if odd := Reader.NON_PRINTABLE.search(text):
        line = text.count("\n", 0, odd.start()) + 1
        where = Where(file, line, odd.start() - text.rfind("\n", 0, odd.start()))
        message = f"The character U+{ord(odd.group()):04X} has no place in a text."
        raise RecipeError(
            [Mistake("recipe_unreadable", message, where, "Remove it, and save the file as UTF-8 text.")]
        )
    composer = _Composer(text, file)
    try:
        root = _composed(composer)
    except MarkedYAMLError as error:
        raise RecipeError([syntax_mistake(error, text, file)]) from None
    except YAMLError as error:
        mistake = Mistake("not_yaml", f"This is not YAML: {error}.", Where(file), "Correct the file.")
        raise RecipeError([mistake]) from None
    _Expansion(file).measure(root)
    building = _Building(file, text, composer)
    value = building.value(root, ())
    return Plain(
        value, building.keys, building.values, tuple(building.numbers), tuple(building.mistakes.values())
    )


class _Composer(SafeLoader):
    """Composes no more than MAX_NODES nodes and MAX_DEPTH levels. The composer calls the two methods around
    each node that it composes; PyYAML means them for path resolvers, which this loader has none of."""

    def __init__(self, text: str, file: str) -> None:
        super().__init__(text)
        self.file = file
        self.depth = 0
        self.count = 0

    def descend_resolver(self, current_node: Node | None, current_index: Any) -> None:
        self.depth += 1
        self.count += 1
        fix = "A recipe is small and flat; take out what does not belong to it."
        where = _where(self.file, current_node.start_mark) if current_node else Where(self.file)
        if self.depth > MAX_DEPTH:
            raise _unreadable(f"Values are nested more than {MAX_DEPTH} levels deep.", where, fix)
        if self.count > MAX_NODES:
            raise _unreadable(f"The file holds more than {MAX_NODES:,} values.", where, fix)

    def ascend_resolver(self) -> None:
        self.depth -= 1


def _composed(composer: _Composer) -> Node:
    try:
        root = composer.get_node() if composer.check_node() else None
        if root is None:
            fix = "Write a recipe into it; `ftrun init` makes one."
            raise _unreadable("The file is empty.", Where(composer.file), fix)
        if composer.check_node() and (second := composer.get_node()):
            fix = "Keep one document, and remove the line `---` with all that follows."
            where = _where(composer.file, second.start_mark)
            raise _unreadable("A second YAML document begins here.", where, fix)
    finally:
        composer.dispose()
    return root


def _unreadable(message: str, where: Where, fix: str) -> RecipeError:
    return RecipeError([Mistake("recipe_unreadable", message, where, fix)])


def _where(file: str, mark: Mark, keys: Keys = ()) -> Where:
    return Where(file, mark.line + 1, mark.column + 1, dotted(keys) or None)


class _Expansion:
    """Measures what aliases expand to, without expanding them."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.known: dict[int, tuple[int, int] | None] = {}  # by node: values and levels; None while measured

    def measure(self, node: Node) -> tuple[int, int]:
        """Number of values and of levels. An alias stands after its anchor, so it is known when it is met,
        and this recurses no deeper than the text is nested."""
        if id(node) in self.known:
            known = self.known[id(node)]
            if known is None:
                raise self.refusal(node, "An alias (`*name`) refers to the very value that it stands in.")
            return known
        self.known[id(node)] = None
        children: list[Node] = []
        if isinstance(node, MappingNode):
            children = [child for pair in node.value for child in pair]
        elif isinstance(node, SequenceNode):
            children = node.value
        count, depth = 1, 1
        for child in children:
            more, deeper = self.measure(child)
            count, depth = count + more, max(depth, deeper + 1)
            if count > MAX_NODES or depth > MAX_DEPTH:
                limits = f"{MAX_NODES:,} values or {MAX_DEPTH} levels"
                raise self.refusal(node, f"The aliases (`*name`) in here expand to more than {limits}.")
        self.known[id(node)] = count, depth
        return count, depth

    def refusal(self, node: Node, message: str) -> RecipeError:
        fix = "Write the values out, or use fewer aliases."
        return RecipeError([Mistake("too_many_aliases", message, _where(self.file, node.start_mark), fix)])


class _Building:
    """Builds values from nodes, noting places and mistakes. Mistakes are kept by place: what an anchor holds
    is built once for each alias."""

    def __init__(self, file: str, text: str, composer: _Composer) -> None:
        self.file = file
        self.text = text
        self.composer = composer
        self.keys: dict[Keys, Where] = {}
        self.values: dict[Keys, Where] = {}
        self.numbers: list[tuple[Keys, str]] = []
        self.mistakes: dict[tuple[str, int, int], Mistake] = {}

    def mistake(self, kind: str, message: str, mark: Mark, keys: Keys, fix: str) -> None:
        place = kind, mark.line, mark.column
        self.mistakes.setdefault(place, Mistake(kind, message, _where(self.file, mark, keys), fix))

    def value(self, node: Node, keys: Keys) -> Any:
        self.values[keys] = _where(self.file, node.start_mark, keys)
        if node.tag not in _TAGS:
            self.refuse_tag(node, keys)
        if isinstance(node, MappingNode):
            return self.mapping(node, keys)
        if isinstance(node, SequenceNode):
            entries = []
            for index, entry in enumerate(node.value):
                self.keys[*keys, index] = _where(self.file, entry.start_mark, (*keys, index))
                entries.append(self.value(entry, (*keys, index)))
            return entries
        assert isinstance(node, ScalarNode)
        return self.scalar(node, keys)

    def refuse_tag(self, node: Node, keys: Keys) -> None:
        tag = "!!" + node.tag.removeprefix(_YAML) if node.tag.startswith(_YAML) else node.tag
        message = f"The tag `{tag[:60]}` is not one of plain YAML."
        fix = "Remove the tag; a recipe holds texts, numbers, true, false, lists and mappings."
        self.mistake("unsafe_tag", message, node.start_mark, keys, fix)

    def mapping(self, node: MappingNode, keys: Keys) -> dict[str, Any]:
        result = {}
        for key, (key_node, value_node) in self.pairs(node, keys).items():
            self.keys[*keys, key] = _where(self.file, key_node.start_mark, (*keys, key))
            result[key] = self.value(value_node, (*keys, key))
        return result

    def pairs(self, node: MappingNode, keys: Keys) -> dict[str, tuple[ScalarNode, Node]]:
        """The keys of a mapping as texts (`on:` and `1:` too), those of `<<` among them."""
        own: dict[str, tuple[ScalarNode, Node]] = {}
        merged: dict[str, tuple[ScalarNode, Node]] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                message = "A key is a single word; here it is a list or a mapping."
                fix = "Write `key: value`. A text with `{{ … }}` needs quotes, and is not filled in."
                self.mistake("not_yaml", message, key_node.start_mark, keys, fix)
                continue
            if key_node.tag not in _TAGS:
                self.refuse_tag(key_node, (*keys, key_node.value))
            if key_node.value in own:
                self.duplicate(key_node, own[key_node.value][0].start_mark, keys)
                continue
            own[key_node.value] = key_node, value_node
            if key_node.tag == f"{_YAML}merge":
                merged = self.sources(value_node, keys)
        if "<<" in own and own["<<"][0].tag == f"{_YAML}merge":
            del own["<<"]
        return merged | own

    def duplicate(self, key_node: ScalarNode, first: Mark, keys: Keys) -> None:
        places = (f"{mark.line + 1}:{mark.column + 1}" for mark in (first, key_node.start_mark))
        message = f"`{key_node.value}` is written twice: at {' and at '.join(places)}."
        fix = "Keep one of the two."
        if key_node.tag == f"{_YAML}merge":
            fix = "Name both anchors in one: `<<: [*first, *second]`."
        self.mistake("duplicate_key", message, key_node.start_mark, (*keys, key_node.value), fix)

    def sources(self, node: Node, keys: Keys) -> dict[str, tuple[ScalarNode, Node]]:
        """What `<<` brings: of several mappings, the earlier wins."""
        merged: dict[str, tuple[ScalarNode, Node]] = {}
        for source in node.value if isinstance(node, SequenceNode) else [node]:
            if isinstance(source, MappingNode):
                merged = self.pairs(source, keys) | merged
            else:
                message = "`<<` takes an anchored mapping, or a list of them."
                fix = "Write `<<: *name`, with `&name` before the mapping that is meant."
                self.mistake("not_yaml", message, source.start_mark, keys, fix)
        return merged

    def scalar(self, node: ScalarNode, keys: Keys) -> Any:
        text, tag = node.value, node.tag
        is_plain = not node.style
        if tag not in _TAGS:
            tag = self.composer.resolve(ScalarNode, text, (is_plain, not is_plain))  # type: ignore[no-untyped-call]
        if tag == f"{_YAML}null":
            return None
        if tag == f"{_YAML}bool":
            return SafeLoader.bool_values.get(text.lower(), text)
        if (
            tag in (f"{_YAML}int", f"{_YAML}float") and ":" not in text
        ):  # 1:30 is no number to anyone but YAML 1.1
            return self.number(node, tag)
        source = self.text[node.start_mark.index : node.end_mark.index]
        if is_plain and _EXPONENT.fullmatch(text) and not _EXPLICIT.match(source):
            self.numbers.append((keys, text))
            return float(text)
        return text

    def number(self, node: ScalarNode, tag: str) -> int | float | str:
        """Texts that a tag calls a number, and that are none, stay texts: the type is judged later."""
        try:
            if tag == f"{_YAML}int":
                return int(self.composer.construct_yaml_int(node))
            return float(self.composer.construct_yaml_float(node))
        except (ValueError, IndexError):
            return str(node.value)
