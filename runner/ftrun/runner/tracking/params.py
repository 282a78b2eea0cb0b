"""The recipe as MLflow parameters: for searching and comparing, never the truth.

The truth is the artifact `recipe.resolved.yaml`; a value that does not fit here says so.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ftrun.runner.tracking.secrets import redact

# Limits: mlflow/utils/validation.py of MLflow 3.17. MLflow takes values of 6,000 characters and cuts longer
# ones; older servers take 500. A thousand parameters are far more than its pages show.
MAX_KEY = 250
MAX_VALUE = 500
MAX_PARAMS = 1000
LEFT_OUT = "ftrun.params_left_out"


def flatten_params(recipe: Mapping[str, Any]) -> dict[str, str]:
    """The leaves of a nested mapping by dotted key: `training.learning_rate`, `data.train.0.path`.

    Floats are written by repr, None as `null`, booleans as `true` and `false`, empty lists and mappings as
    `[]` and `{}`. A value over 500 characters becomes the start of its SHA-256, a secret `<secret>`. Of more
    than a thousand leaves the last are left out and counted under `ftrun.params_left_out`.
    """
    flat: dict[str, str] = {}
    for key, leaf in _walk_leaves("", recipe):
        value = shorten_value(redact(key, _spell(leaf)), MAX_VALUE)
        flat[_unused_key(clean_key(key), key, flat)] = value
    if len(flat) > MAX_PARAMS:
        kept = dict(list(flat.items())[: MAX_PARAMS - 1])
        return {**kept, LEFT_OUT: f"{len(flat) - len(kept)} (see recipe.resolved.yaml)"}
    return flat


def shorten_value(text: str, limit: int) -> str:
    """`text`, or what identifies it when it is longer than `limit`: never a silent cut."""
    if len(text) <= limit:
        return text
    return f"sha256:{_digest(text)} (see recipe.resolved.yaml)"


def clean_key(name: str) -> str:
    """`name` as a key that MLflow takes for a parameter, a metric or a tag on every platform.

    Letters, digits, `_`, `-`, `.`, space and `/` stay, anything else becomes `_`; the key is no path that
    leads elsewhere (`a//b`, `../a`) and has at most 250 characters.
    """
    allowed = re.sub(r"[^/\w.\- ]", "_", name)
    parts = [re.sub(r"^\.\.?$", "_", part) for part in allowed.split("/") if part]
    key = "/".join(parts) or "_"
    if len(key) <= MAX_KEY:
        return key
    return f"{key[: MAX_KEY - 13]}-{_digest(name)}"


def _walk_leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _walk_leaves(f"{prefix}.{key}" if prefix else str(key), inner)
    elif isinstance(value, list | tuple) and value:
        for index, inner in enumerate(value):
            yield from _walk_leaves(f"{prefix}.{index}" if prefix else str(index), inner)
    elif prefix:
        yield prefix, value


def _spell(leaf: Any) -> str:
    if leaf is None:
        return "null"
    if isinstance(leaf, bool):
        return "true" if leaf else "false"
    if isinstance(leaf, float):
        return repr(leaf)
    return str(leaf)


def _unused_key(key: str, name: str, taken: Mapping[str, str]) -> str:
    """Two names may become one key when characters are replaced; the second then carries its digest."""
    return key if key not in taken else f"{key[: MAX_KEY - 13]}-{_digest(name)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
