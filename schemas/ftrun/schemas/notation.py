"""Values as YAML text, in the style of recipes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from yaml import YAMLError, safe_load

from ftrun.schemas.errors import RecipeError
from ftrun.schemas.nodes import plain

SMALL = 1e-3  # floats below are written with an exponent

BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
"""What ends a line of YAML."""


def as_yaml(value: Any, *, in_flow: bool = False) -> str:
    """A value on one line, in the style of recipes: `2.0e-5`, `{prompt: question}`, quotes where they are
    needed. `in_flow`: inside `{…}` or `[…]`, where more texts need them. Raises TypeError for what no recipe
    holds."""
    if isinstance(value, Mapping):
        pairs = (
            f"{key_as_yaml(key, in_flow=True)}: {as_yaml(item, in_flow=True)}" for key, item in value.items()
        )
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(as_yaml(item, in_flow=True) for item in value)}]"
    if isinstance(value, str):
        return _text(value, in_flow)
    if value is None or isinstance(value, bool | int):
        return json.dumps(value)
    if isinstance(value, float):
        return _float(value)
    raise TypeError(f"a recipe holds no {type(value).__name__}")


def _float(value: float) -> str:
    if not math.isfinite(value):
        return ".nan" if math.isnan(value) else f"{'-' if value < 0 else ''}.inf"
    shortest = repr(float(value))
    if "e" not in shortest and (value == 0 or abs(value) >= SMALL):
        return shortest
    mantissa, _, exponent = f"{Decimal(shortest):E}".partition("E")
    # YAML 1.1 knows no number without a dot or without the sign of its exponent.
    return f"{mantissa if '.' in mantissa else f'{mantissa}.0'}e{int(exponent):+d}"


def _text(text: str, in_flow: bool) -> str:
    probe = f"{{x: {text}}}" if in_flow else f"x: {text}"
    return text if _reads_as(probe, {"x": text}) else _quoted(text)


def key_as_yaml(key: str, *, in_flow: bool) -> str:
    """A key, in quotes where they are needed; `in_flow` as for `as_yaml`."""
    probe = f"{{{key}: x}}" if in_flow else f"{key}: x"
    return key if _reads_as(probe, {key: "x"}) else _quoted(key)


def _reads_as(probe: str, value: Any) -> bool:
    """Whether recipes and YAML 1.1, which knows dates and takes `on` for true, read the same."""
    try:
        return bool(plain(probe, "").value == value == safe_load(probe)) and not BREAK.search(probe)
    except (RecipeError, YAMLError, ValueError):  # ValueError: a date with a month 13
        return False


def _quoted(text: str) -> str:
    shown = json.dumps(text, ensure_ascii=False)
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in shown)
