"""What a recipe from elsewhere would be allowed that goes beyond its own folder.

The YAML is judged as it is written, before it is validated, and whatever is not known to be harmless counts: a
key that a later version knows must not be let through by this one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import Any, Literal

from ftrun.schemas.bundle import CODE_ENDING, RECIPE_ENDINGS, Bundle, BundleError, shown
from ftrun.schemas.document import MAX_BYTES
from ftrun.schemas.errors import RecipeError
from ftrun.schemas.nodes import Keys, dotted, plain

Kind = Literal["reaches", "code", "sends", "engine", "record"]

WORDS: Mapping[Kind, str] = {
    "reaches": "reaches outside its folder",
    "code": "runs code",
    "sends": "sends elsewhere",
    "engine": "sets up an engine that can write and send elsewhere",
    "record": "writes over what ftrun or MLflow says in the record",
}

# Values of these are words for people or names within the rows, and lead nowhere.
FREE = (
    re.compile(r"name|method"),
    re.compile(r"tracking\.(?:experiment|tags\..*)"),
    re.compile(r"preflight\.ignore\..*"),
    re.compile(r"data\.(?:train|eval)\.\d+\.columns\..*"),
)
RECORD = re.compile(r"tracking\.tags\.(?:ftrun|mlflow)\..*", re.IGNORECASE)
SENDS = re.compile(r"(?:.*\.)?(?:push_to_hub|hub_\w+|report_to|trackio_\w+|proxies|tracking\.uri)")
FUNCTION = re.compile(r"reward\.functions(?:\.\d+)?")
ENGINE = "training.deepspeed"
INIT = "training.model_init_kwargs"
ATTENTION = ("sdpa", "eager", "flash_attention_2", "flash_attention_3")
HARMLESS_INIT = frozenset({"dtype", "torch_dtype", "revision", "low_cpu_mem_usage"})
"""What `from_pretrained` takes that neither loads code (`use_kernels`, `code_revision`) nor names places
(`cache_dir`, `proxies`); transformers adds keys with every version."""


@dataclass(frozen=True)
class Power:
    """One thing that a recipe would be allowed: what kind, by which file and key, with which value."""

    kind: Kind
    file: str
    key: str
    value: str

    def __str__(self) -> str:
        key = f" {self.key}:" if self.key else ""
        return f"{WORDS[self.kind]}: {self.file}{key} {self.value}".rstrip()


def powers_of(bundle: Bundle) -> tuple[Power, ...]:
    """The powers of every recipe in a bundle, and each Python file. Raises BundleError where a recipe cannot be
    read, or extends another: the recipes of a bundle are whole."""
    found: list[Power] = []
    for name, content in bundle.files.items():
        if name.lower().endswith(CODE_ENDING):
            lines = len(content.splitlines())
            found.append(Power("code", name, "", f"{lines:,} lines of Python"))
        elif name.lower().endswith(RECIPE_ENDINGS):
            tree = _tree(name, content, bundle.manifest.address)
            found += find_powers(tree, name)
    return tuple(found)


def _tree(name: str, content: bytes, address: str) -> dict[str, Any]:
    """What a recipe of a bundle says, read as it will be when it is used."""
    fix = "Ask whoever pushed it; nothing of it was used."
    try:
        if len(content) > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES:,} bytes")
        tree = plain(content.decode("utf-8-sig"), name).value
    except RecipeError as error:
        raise BundleError(f"{name} of {address} cannot be read: {error.mistakes[0].message}", fix) from None
    except ValueError as error:  # UnicodeDecodeError is one
        raise BundleError(f"{name} of {address} cannot be read: {error}.", fix) from None
    if not isinstance(tree, dict):
        raise BundleError(f"{name} of {address} holds no keys.", fix)
    if "extends" in tree:
        message = f"{name} of {address} extends another recipe, and those of a bundle are whole."
        raise BundleError(message, "Push it anew with `ftrun recipes push`, which merges what it extends.")
    return tree


def find_powers(tree: Mapping[str, Any], file: str) -> Iterator[Power]:
    """The powers that the values of a recipe or a pipeline ask for."""
    for keys, value in _nodes((), tree):
        key = dotted(keys)
        kind = _judge(key.removeprefix(_stage_set(keys)), value)
        if kind is not None:
            yield Power(kind, file, shown(key), shown(str(value)))


def leads_out(text: str) -> bool:
    """Whether a text, taken as a path, would lead out of the folder it is relative to: absolute, through `..`, a
    home folder, a drive, or an address."""
    return (
        text.startswith(("/", "\\", "~"))
        or ".." in re.split(r"[/\\]", text)
        or bool(PureWindowsPath(text).drive)
        or re.match(r"[A-Za-z][A-Za-z0-9+.\-]+:/", text) is not None
        or "\0" in text
    )


def _judge(key: str, value: Any) -> Kind | None:
    last = key.rpartition(".")[2]
    if RECORD.fullmatch(key):
        return "record"
    if value is None or value is False or any(free.fullmatch(key) for free in FREE):
        return None
    if last == "trust_remote_code" or (FUNCTION.fullmatch(key) and isinstance(value, str)):
        return "code"
    if SENDS.fullmatch(key):
        return "sends"
    if key == ENGINE:
        return "engine"  # DeepSpeed has writers and monitors of its own
    if key.startswith(f"{INIT}.") and key.count(".") == INIT.count(".") + 1:
        is_known = last in HARMLESS_INIT or (last == "attn_implementation" and value in ATTENTION)
        return None if is_known else "code"
    return "reaches" if isinstance(value, str) and leads_out(value) else None


def _nodes(keys: Keys, value: Any) -> Iterator[tuple[Keys, Any]]:
    """Every value with its path; the dotted keys of a stage's `set:` as the path that they mean."""
    children: Any = ()
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    for key, child in children:
        path = (*keys, *str(key).split(".")) if _stage_set((*keys, "")) else (*keys, key)
        yield path, child
        yield from _nodes(path, child)


def _stage_set(keys: Keys) -> str:
    """What stands before the recipe's own keys in a stage's `set:`, with its dot; nothing elsewhere."""
    is_set = len(keys) > 3 and keys[0] == "stages" and keys[2] == "set"
    return f"{dotted(keys[:3])}." if is_set else ""
