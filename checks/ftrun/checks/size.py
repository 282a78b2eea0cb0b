"""How large a model is, as far as the recipe and files beside it tell."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftrun.checks.paths import kind_of, located

SMALL = 50_000_000
"""Parameters below which a model learns at rates that would ruin a large one."""

_COUNTS = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?)([mb])(?![a-z])", re.IGNORECASE)
_UNITS = {"m": 1e6, "b": 1e9}


def is_small(path: str, folder: Path) -> bool:
    """Whether `model.path` of a recipe in `folder` is known to be a model of less than SMALL parameters.

    Known are `tiny`, folders with a config.json, adapters on a model that is known, and ids that say so
    (`pythia-14m`, `tiny-random-Llama`). The model of an earlier run (`run:NAME`) may be of any size, and counts as
    small.
    """
    path = _base_of(path, folder)
    if path == "tiny" or path.startswith(("run:", "stage:")):
        return True
    config = located(path, folder) / "config.json"
    if kind_of(config) == "file":
        count = count_parameters(_read(config))
        return count is not None and count < SMALL
    name = path.rpartition("/")[2]
    stated = [float(number) * _UNITS[unit.lower()] for number, unit in _COUNTS.findall(name)]
    return name.lower().startswith("tiny-") or (bool(stated) and max(stated) < SMALL)


def _base_of(path: str, folder: Path) -> str:
    """The model that an adapter folder was made for; any other path as it is."""
    adapter = located(path, folder) / "adapter_config.json"
    base = _read(adapter).get("base_model_name_or_path") if kind_of(adapter) == "file" else None
    return base if isinstance(base, str) else path


def count_parameters(config: Mapping[str, Any]) -> int | None:
    """About how many parameters a transformer with this config.json has; None where it does not tell.

    Embeddings, and for each layer 4 d² for attention and 3 d × width (of each expert) for the rest. Within a
    third of the truth for the usual architectures, which is enough to tell small from large.
    """
    inner = config.get("text_config")
    config = inner if isinstance(inner, dict) else config
    hidden = _first(config, "hidden_size", "n_embd", "d_model", "dim")
    layers = _first(config, "num_hidden_layers", "n_layer", "num_layers", "n_layers")
    words = _first(config, "vocab_size")
    if hidden is None or layers is None or words is None:
        return None
    width = _first(config, "intermediate_size", "n_inner", "ffn_dim", "d_ff") or 4 * hidden
    experts = _first(config, "num_local_experts", "num_experts", "n_routed_experts") or 1
    heads = 1 if config.get("tie_word_embeddings", True) else 2
    return heads * words * hidden + layers * (4 * hidden**2 + experts * 3 * hidden * width)


def _first(config: Mapping[str, Any], *names: str) -> int | None:
    return next((config[name] for name in names if isinstance(config.get(name), int)), None)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # what is wrong with the file is told when the model is loaded
        return {}
    return content if isinstance(content, dict) else {}
