"""The shape of a model, read from its config.json without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftrun.checks.paths import located
from ftrun.checks.stages import AtRecipe

FAMILIES: Mapping[str, str] = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "llama",
    "qwen3": "qwen3",
    "gpt2": "gpt2",
}
"""The kinds of models whose memory the closed form knows, by `model_type`, each with the coefficients it takes."""

DEFAULT_TARGETS: Mapping[str, tuple[str, ...]] = {"llama": ("q_proj", "v_proj"), "gpt2": ("c_attn",)}
"""What PEFT adapts where `target_modules` is absent."""


@dataclass(frozen=True)
class Shape:
    """What decides how much memory a model takes."""

    family: str
    layers: int
    hidden: int
    queries: int
    """Width of all query heads together."""

    keys: int
    """Width of the keys, and of the values, of all their heads together."""

    inner: int
    """Width of the feed-forward part."""

    heads: int
    words: int
    per_layer: int
    """Parameters of a layer."""

    outside: int
    """Parameters of embeddings, head and last norm."""

    linear: Mapping[str, tuple[int, int]]
    """The linear modules of a layer, by name: width of input and output."""

    @property
    def is_tied(self) -> bool:
        """Whether embeddings and head are one tensor."""
        return self.outside < 2 * self.words * self.hidden

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        return self.layers * self.per_layer + self.outside

    def adapters(self, lora: Mapping[str, Any]) -> int:
        """Parameters that LoRA adds to each layer. Raises ValueError for targets that are not told by name."""
        wanted = lora.get("target_modules") or DEFAULT_TARGETS["gpt2" if self.family == "gpt2" else "llama"]
        names = self.linear if wanted == "all-linear" else [wanted] if isinstance(wanted, str) else wanted
        unknown = [name for name in names if name not in self.linear]
        if unknown:
            raise ValueError(
                f"model.lora.target_modules {unknown[0]} is no linear module that the closed form knows"
            )
        return int(lora.get("r", 8)) * sum(sum(self.linear[name]) for name in names)


def read_config(at: AtRecipe) -> Mapping[str, Any]:
    """The config.json of the recipe's model. Raises ValueError where it is not on this machine."""
    path = at.recipe.model.path
    if path == "tiny":
        from ftrun.runner.tiny import CONFIG

        return {**CONFIG, "model_type": "llama"}
    if path.startswith(("run:", "stage:")):
        raise ValueError(f"model.path {path} is found with ftrun[train] only")
    local = located(path, at.file.folder) / "config.json"
    file = local if local.is_file() else _find_cached(path, at.recipe.model.revision)
    if file is None:
        raise ValueError(f"the configuration of {path} is not on this machine (looked for {local})")
    content: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def _find_cached(path: str, revision: str | None) -> Path | None:
    """The configuration of a hub model in the cache of huggingface_hub, where that is installed."""
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        return None
    try:
        found = try_to_load_from_cache(path, "config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def read_shape(config: Mapping[str, Any]) -> Shape:
    """The shape that a configuration describes. Raises ValueError for a kind of model that is not known here."""
    kind = str(config.get("model_type"))
    if kind not in FAMILIES:
        raise ValueError(
            f"the closed form knows {', '.join(FAMILIES)}, and not {kind}; with ftrun[train] any model"
        )
    return _read_gpt2(config) if kind == "gpt2" else _read_llama(config, kind)


def _read_llama(config: Mapping[str, Any], kind: str) -> Shape:
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    # Qwen 3 states it or has 128, whatever its width.
    size = config.get("head_dim") or (128 if kind == "qwen3" else hidden // heads)
    queries, keys = heads * size, (config.get("num_key_value_heads") or heads) * size
    linear = {
        "q_proj": (hidden, queries),
        "k_proj": (hidden, keys),
        "v_proj": (hidden, keys),
        "o_proj": (queries, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }
    biases = queries + 2 * keys if kind == "qwen2" or config.get("attention_bias") else 0
    biases += hidden if config.get("attention_bias") else 0
    biases += 2 * inner + hidden if config.get("mlp_bias") else 0
    norms = 2 * hidden + (2 * size if kind == "qwen3" else 0)
    ends = 1 if config.get("tie_word_embeddings", False) else 2
    return Shape(
        family=FAMILIES[kind],
        layers=config["num_hidden_layers"],
        hidden=hidden,
        queries=queries,
        keys=keys,
        inner=inner,
        heads=heads,
        words=config["vocab_size"],
        per_layer=sum(into * out for into, out in linear.values()) + biases + norms,
        outside=ends * config["vocab_size"] * hidden + hidden,
        linear=linear,
    )


def _read_gpt2(config: Mapping[str, Any]) -> Shape:
    hidden, words = config["n_embd"], config["vocab_size"]
    inner = config.get("n_inner") or 4 * hidden
    # Two of a layer's modules are called c_proj; PEFT adapts both by that name.
    linear = {"c_attn": (hidden, 3 * hidden), "c_fc": (hidden, inner), "c_proj": (hidden + inner, 2 * hidden)}
    weights = hidden * 3 * hidden + hidden * hidden + 2 * hidden * inner
    biases = 3 * hidden + hidden + inner + hidden
    return Shape(
        family="gpt2",
        layers=config["n_layer"],
        hidden=hidden,
        queries=hidden,
        keys=hidden,
        inner=inner,
        heads=config["n_head"],
        words=words,
        per_layer=weights + biases + 4 * hidden,
        outside=(words + config["n_positions"]) * hidden + 2 * hidden,
        linear=linear,
    )
