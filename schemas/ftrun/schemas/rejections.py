"""What pydantic rejects, in words for the person who wrote the recipe."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ftrun.schemas.mistake import Mistake, Where
from ftrun.schemas.nodes import Keys, dotted
from ftrun.schemas.sections import CHECK_ID, NAME
from ftrun.schemas.shapes import Homes, fields_of, meant_by, shapes_at
from ftrun.schemas.spelling import nearest

# What an error of this type asks for.
TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}
BOUNDS = {
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "finite_number": "a finite number",
    "string_too_short": "text of {min_length} or more characters",
    "string_too_long": "text of at most {max_length} characters",
    "too_short": "a list of {min_length} or more",
    "too_long": "a list of at most {max_length}",
}
PATTERNS = {
    NAME: "of letters, digits, `.`, `-` and `_` (100 at most, the first a letter or digit)",
    CHECK_ID: "the id of a check, such as DATA007",
}
# What to write for a key that is missing.
EXAMPLES = {
    "name": "name: my-run",
    "model": "model: {path: tiny}",
    "data": "data: {train: [{path: data.jsonl}]}",
    "train": "train: [{path: data.jsonl}]",
    "path": "path: data.jsonl",
    "fraction": "fraction: 0.05",
    "recipe": "recipe: sft.yaml",
}


@dataclass(frozen=True)
class Rejection:
    """One error of pydantic's. `keys` is its path in the recipe, without the members of unions that pydantic
    names on the way; `union` is the path of the first union there, and `member` the one that was tried."""

    error: ErrorDetails
    keys: Keys
    union: Keys | None
    member: str

    @property
    def is_other_type(self) -> bool:
        """Whether the union's value is of another type than this member."""
        return self.keys == self.union and self.error["type"] in (*TYPES, "literal_error")


@dataclass(frozen=True)
class Ground:
    """What a mistake is told from: the model that rejected, the recipe's values, where each key belongs,
    where it is written, and what the file is called."""

    kind: type[BaseModel]
    tree: Mapping[str, Any]
    homes: Homes
    place: Callable[[Keys], Where]
    name: str = "a recipe"


def mistakes_of(error: ValidationError, ground: Ground) -> Iterator[Mistake]:
    """The mistakes behind a ValidationError of `ground.kind` on `ground.tree`."""
    details = error.errors(include_url=False)
    rejections = sorted((_rejection(one, ground.tree) for one in details), key=lambda one: repr(one.union))
    for union, group in groupby(rejections, key=lambda one: one.union):
        tried = list(group)
        others = {one.member for one in tried if one.is_other_type}
        fitting = [one for one in tried if one.member not in others]
        if union is None or fitting:
            for one in tried if union is None else fitting:
                yield _mistake(one, ground)
        else:
            wanted = dict.fromkeys(_wanted(one.error) for one in tried if one.is_other_type)
            yield _wrong_type(tried[0], " or ".join(wanted), ground)


def quoted(value: Any) -> str:
    """A value in a sentence."""
    if value is None:
        return "empty"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _rejection(error: ErrorDetails, tree: Any) -> Rejection:
    keys: Keys = ()
    union, member = None, ""
    value, last = tree, len(error["loc"]) - 1
    for index, part in enumerate(error["loc"]):
        if _holds(value, part):
            keys, value = (*keys, part), value[part]
        elif index == last and error["type"] == "missing":
            keys = (*keys, part)
        elif part != "[key]" and union is None:
            union, member = keys, str(part)
    return Rejection(error, keys, union, member)


def _holds(value: Any, part: str | int) -> bool:
    if isinstance(value, list):
        return isinstance(part, int)
    return isinstance(value, dict) and part in value


def _mistake(rejection: Rejection, ground: Ground) -> Mistake:
    error, keys = rejection.error, rejection.keys
    kind, name, context = error["type"], dotted(keys), error.get("ctx", {})
    if kind == "missing":
        return _missing_key(keys, ground)
    if kind == "extra_forbidden":
        key, above = str(keys[-1]), keys[:-1]
        section = f"`{dotted(above)}`" if above else ground.name
        fix = meant_by(key, above, fields_of(shapes_at(ground.kind, above)), ground.homes)
        return Mistake("unknown_key", f"There is no key `{key}` in {section}.", ground.place(keys), fix)
    if kind in TYPES:
        return _wrong_type(rejection, _wanted(error), ground)
    if kind == "literal_error":
        near = nearest(str(error["input"]), re.findall("'(.*?)'", context["expected"]), cutoff=0.5)
        message = f"`{name}` must be {_wanted(error)}, and is {quoted(error['input'])}."
        fix = f"Did you mean `{near}`?" if near else "Write one of these."
        return Mistake("out_of_range", message, ground.place(keys), fix)
    if kind == "string_pattern_mismatch":
        wanted = PATTERNS.get(context["pattern"], f"text that matches `{context['pattern']}`")
    elif kind in BOUNDS:
        wanted = BOUNDS[kind].format(**context)
    else:
        message = f"`{name}`: {error['msg'].removeprefix('Value error, ')}."
        return Mistake("out_of_range", message, ground.place(keys), "Correct the value.")
    message = f"`{name}` must be {wanted}, and is {quoted(error['input'])}."
    return Mistake("out_of_range", message, ground.place(keys), _range_fix(error, keys, wanted))


def _missing_key(keys: Keys, ground: Ground) -> Mistake:
    key, section = str(keys[-1]), dotted(keys[:-1])
    fix = f"Add `{EXAMPLES.get(key, f'{key}: …')}`" + (f" under `{section}:`." if section else ".")
    return Mistake("missing_key", f"`{dotted(keys)}` is missing.", ground.place(keys), fix)


def _wanted(error: ErrorDetails) -> str:
    if error["type"] == "literal_error":
        # YAML reads `off` as false.
        return str(error.get("ctx", {})["expected"]).replace("'", "`").replace("False", "`off`")
    return TYPES[error["type"]]


def _wrong_type(rejection: Rejection, wanted: str, ground: Ground) -> Mistake:
    keys, value = rejection.keys, rejection.error["input"]
    shapes = shapes_at(ground.kind, keys)
    fix = _section_fix(keys, value, shapes) or _scalar_fix(keys, value, wanted) or f"Write {wanted}."
    message = f"`{dotted(keys)}` must be {wanted}, and is {quoted(value)}."
    return Mistake("wrong_type", message, ground.place(keys), fix)


def _section_fix(keys: Keys, value: Any, shapes: list[Any]) -> str | None:
    """For a section or a list of sections that is written as what it holds."""
    key = keys[-1]
    before = "- " if isinstance(key, int) else f"{key}: "
    is_list_of_paths = any("path" in fields_of(shapes_at(shape, (0,))) for shape in shapes)
    fields = fields_of(shapes)
    if value is None:
        return f"Write `{EXAMPLES[key]}`." if key in EXAMPLES else "Write its keys, or remove the line."
    if is_list_of_paths and isinstance(value, str):
        return f"Write a list: `{before}[{{path: {_yaml(value)}}}]`."
    if is_list_of_paths and isinstance(value, dict):
        return f"Write a list: `- ` before its first key, as in `{before}[{{path: …}}]`."
    if fields and not isinstance(value, dict | list):
        field = "path" if "path" in fields else fields[0]
        inside = f"{field}: {_yaml(value)}"
        if isinstance(key, int):
            return f"Write `- {inside}`."
        is_meant = field in ("path", "recipe") or len(fields) == 1
        return f"Write `{key}: {{{inside}}}`." if is_meant else None
    return None


def _scalar_fix(keys: Keys, value: Any, wanted: str) -> str | None:
    if wanted == "text" and isinstance(value, bool | int | float):
        return f'Put it in quotes: `{keys[-1]}: "{_yaml(value)}"`.'
    if wanted == "a whole number" and isinstance(value, float) and value.is_integer():
        return f"Write `{keys[-1]}: {int(value)}`."
    if wanted in ("a whole number", "a number", "true or false") and isinstance(value, str):
        try:
            meant = json.loads(value.lower())
        except ValueError:
            return None
        if isinstance(meant, bool) == (wanted == "true or false") and isinstance(meant, bool | int | float):
            return f"Write it without quotes: `{keys[-1]}: {_yaml(meant)}`."
    return None


def _range_fix(error: ErrorDetails, keys: Keys, wanted: str) -> str:
    if error.get("ctx", {}).get("pattern") == NAME:
        slug = re.sub("[^A-Za-z0-9._-]+", "-", str(error["input"])).strip("-._")[:100]
        return f"Write `{keys[-1]}: {slug or 'my-run'}`."
    return f"Write {wanted}." if wanted.startswith(("text", "the ", "a ")) else f"Give a value {wanted}."


def _yaml(value: Any) -> str:
    """A value as a recipe may write it."""
    return value if isinstance(value, str) and re.fullmatch(r"[A-Za-z.~/][\w./-]*", value) else quoted(value)
