"""What `training:` and `model.lora:` may say, known without importing torch.

The tables are generated from the installed TRL, transformers and PEFT by `.ci/generate.py`. `fields` holds a
JSON Schema fragment for each key that is accepted, `refused` says for every other key of those libraries what
to use instead. `judge` holds the values of a section against a table.
"""

from __future__ import annotations

import copy
import functools
import json
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ftrun.schemas.spelling import nearest

Kind = Literal["unknown_key", "refused_key", "wrong_type", "out_of_range"]
Fragment = Mapping[str, Any]
Place = tuple[str | int, ...]

# Names that people bring from other tools, old versions and papers. They are hints, never accepted.
ALIASES = {
    "lr": "learning_rate",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "steps": "max_steps",
    "batch_size": "per_device_train_batch_size",
    "micro_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "gradient_accumulation": "gradient_accumulation_steps",
    "grad_accum": "gradient_accumulation_steps",
    "warmup": "warmup_steps",
    "warmup_ratio": "warmup_steps",
    "scheduler": "lr_scheduler_type",
    "lr_scheduler": "lr_scheduler_type",
    "optimizer": "optim",
    "clip_grad": "max_grad_norm",
    "evaluation_strategy": "eval_strategy",
    "max_seq_length": "max_length",
    "max_seq_len": "max_length",
    "group_by_length": "train_sampling_strategy",
    "no_cuda": "use_cpu",
    "rank": "r",
    "lora_r": "r",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "modules": "target_modules",
}
WORDS = {
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}
BOUNDS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    "minimum": ("at least", operator.ge),
    "exclusiveMinimum": ("above", operator.gt),
    "maximum": ("at most", operator.le),
    "exclusiveMaximum": ("below", operator.lt),
}


@dataclass(frozen=True)
class Table:
    """`fields`: name → JSON Schema fragment with a `default`. `refused`: name → what to use instead."""

    fields: Mapping[str, Fragment]
    refused: Mapping[str, str]


@dataclass(frozen=True)
class Complaint:
    """About one key of a settings section. `path` leads to it from the section."""

    path: Place
    kind: Kind
    message: str
    fix: str


@functools.cache
def read_table(name: str) -> Table:
    """The table `sft` for `training:`, or `lora` for `model.lora:`."""
    text = (Path(__file__).parent / "tables" / f"{name}.json").read_text(encoding="utf-8")
    content = json.loads(text)
    return Table(fields=content["fields"], refused=content["refused"])


def defaults(table: Table) -> dict[str, Any]:
    """Every accepted key with the value that the library gives it."""
    return {name: copy.deepcopy(fragment["default"]) for name, fragment in table.fields.items()}


def judge(values: Mapping[str, Any], table: Table) -> tuple[dict[str, Any], list[Complaint]]:
    """The values that can be used, and a complaint about each one that cannot.

    Two notations are read as what they mean: 1e3 where a whole number belongs is 1000, and `no` where a word
    belongs is the word, although YAML 1.1 reads it as false.
    """
    usable: dict[str, Any] = {}
    complaints: list[Complaint] = []
    for name, value in values.items():
        if name in table.refused:
            message = f"`{name}` is not for a recipe to set."
            complaints.append(Complaint((name,), "refused_key", message, table.refused[name]))
        elif name not in table.fields:
            fix = _suggest_name(str(name), table)
            complaints.append(Complaint((name,), "unknown_key", f"There is no setting `{name}`.", fix))
        else:
            meant = _read_as_meant(value, table.fields[name])
            found = list(_complain(meant, table.fields[name], (name,)))
            complaints.extend(found)
            if not found:
                usable[name] = meant
    return usable, complaints


def _suggest_name(name: str, table: Table) -> str:
    plain = name.lower().replace("-", "_")
    alias = ALIASES.get(plain, plain)
    near = nearest(alias, [*table.fields, *table.refused])
    if near is None:
        return "Remove it, or look the name up with `ftrun schema`."
    if near in table.refused:
        return f"If you mean `{near}`: {table.refused[near]}"
    return f"Did you mean `{near}`?"


def _read_as_meant(value: Any, fragment: Fragment) -> Any:
    types = _types(fragment)
    if isinstance(value, float) and value.is_integer() and "integer" in types and "number" not in types:
        return int(value)
    if value is False and "boolean" not in types and "no" in _words(fragment):
        return "no"
    if isinstance(value, Mapping):
        return {key: _read_as_meant(item, _inside(fragment, key) or {}) for key, item in value.items()}
    if isinstance(value, list):
        return [_read_as_meant(item, fragment.get("items", {})) for item in value]
    return value


def _complain(value: Any, fragment: Fragment, path: Place) -> Iterator[Complaint]:
    """What is wrong with one value, or with what is inside it."""
    label = _label(path)
    types = _types(fragment)
    found = _type_of(value)
    if isinstance(value, float) and not math.isfinite(value):
        message = f"`{label}` is {value}, and no setting can be."
        yield Complaint(path, "out_of_range", message, _give(fragment))
    elif types and found not in types and not (found == "integer" and "number" in types):
        message = f"`{label}` must be {_wanted(fragment)}, and is {_quote(value)}."
        yield Complaint(path, "wrong_type", message, _suggest_type(value, fragment, str(path[-1])))
    elif not _is_allowed(value, fragment):
        message = f"`{label}` must be {_wanted(fragment)}, and is {_quote(value)}."
        yield Complaint(path, "out_of_range", message, _suggest_value(value, fragment))
    elif isinstance(value, Mapping):
        yield from _complain_inside(value, fragment, path)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _complain(item, fragment.get("items", {}), (*path, index))


def _complain_inside(value: Mapping[str, Any], fragment: Fragment, path: Place) -> Iterator[Complaint]:
    for key, item in value.items():
        inside = _inside(fragment, key)
        if inside is not None:
            yield from _complain(item, inside, (*path, key))
        else:
            known = fragment["properties"]
            near = nearest(str(key), known)
            fix = f"Did you mean `{near}`?" if near else f"It takes {', '.join(known)}."
            yield Complaint((*path, key), "unknown_key", f"There is no `{key}` in `{_label(path)}`.", fix)


def _inside(fragment: Fragment, key: str) -> Fragment | None:
    """The fragment of a key in a mapping; None where the key is unknown."""
    others: Fragment | Literal[False] = fragment.get("additionalProperties", {})
    inside: Fragment | None = fragment.get("properties", {}).get(key)
    return inside if inside is not None else (None if others is False else others)


def _is_allowed(value: Any, fragment: Fragment) -> bool:
    if "enum" in fragment and not any(value == one and type(value) is type(one) for one in fragment["enum"]):
        return False
    if isinstance(value, str) and "pattern" in fragment:
        return re.fullmatch(fragment["pattern"], value) is not None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return all(holds(value, fragment[key]) for key, (_, holds) in BOUNDS.items() if key in fragment)
    if isinstance(value, list):
        return "minItems" not in fragment or len(value) == fragment["minItems"]  # pairs alone have it
    return True


def _suggest_type(value: Any, fragment: Fragment, name: str) -> str:
    if isinstance(value, str) and any(word in _types(fragment) for word in ("integer", "number", "boolean")):
        try:
            meant = _read_as_meant(json.loads(value.lower()), fragment)
        except ValueError:
            return _give(fragment)
        if not isinstance(meant, str) and not list(_complain(meant, fragment, (name,))):
            return f"Write it without quotes: `{name}: {_quote(meant)}`."
    return _give(fragment)


def _suggest_value(value: Any, fragment: Fragment) -> str:
    words = _words(fragment)
    begun = [word for word in words if word.startswith(str(value))]
    near = begun[0] if begun else nearest(str(value), words)
    return f"Did you mean `{near}`?" if near else _give(fragment)


def _give(fragment: Fragment) -> str:
    default = f"; the default is {_quote(fragment['default'])}" if "default" in fragment else ""
    return f"Give {_wanted(fragment, most=100)}{default}."


def _wanted(fragment: Fragment, most: int = 8) -> str:
    """In words: `a whole number (at least 1), or null`. A choice of more than `most` is only counted."""
    words = []
    for kind in _types(fragment):
        choices = [_quote(one) for one in fragment.get("enum", ()) if _type_of(one) == kind]
        bounds = [f"{word} {fragment[key]}" for key, (word, _) in BOUNDS.items() if key in fragment]
        if kind in ("integer", "number", "string") and choices:
            words.append(
                f"one of {', '.join(choices)}" if len(choices) <= most else f"one of {len(choices)} names"
            )
        elif kind in ("integer", "number") and bounds:
            words.append(f"{WORDS[kind]} ({', '.join(bounds)})")
        elif kind == "string" and "pattern" in fragment:
            words.append(fragment["pattern"].strip("^$()").replace("|", ", "))
        elif kind == "array" and "minItems" in fragment:
            words.append(f"a list of {fragment['minItems']}")
        else:
            words.append(WORDS[kind])
    return ", or ".join(words) or "a finite number"


def _types(fragment: Fragment) -> list[str]:
    types: str | list[str] = fragment.get("type", [])
    return [types] if isinstance(types, str) else types


def _words(fragment: Fragment) -> list[str]:
    return [value for value in fragment.get("enum", []) if isinstance(value, str)]


def _type_of(value: Any) -> str:
    """The JSON type. What JSON does not have, such as a date, is called by its Python name."""
    names: tuple[tuple[type, str], ...] = (
        (bool, "boolean"),
        (int, "integer"),
        (float, "number"),
        (str, "string"),
        (list, "array"),
        (Mapping, "object"),
    )
    if value is None:
        return "null"
    return next((name for kind, name in names if isinstance(value, kind)), type(value).__name__)


def _label(path: Place) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def _quote(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}…"
