"""Model families, each as transformers builds it from its own config, trained whole, with LoRA and packed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.healthy.models import save_model
from tests.healthy.worlds import LORA, Healthy, pairs_of_text, questions, sft, variants

from ftrun.checks.testing import World

WORDS = {"vocab_size": 1024, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 3}
NARROW = {
    **WORDS,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
GROUPED = {**NARROW, "num_key_value_heads": 2}
GPT = {**WORDS, "n_embd": 64, "n_layer": 2, "n_head": 4}

CONFIGS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "bloom": ("BloomConfig", {**WORDS, "hidden_size": 64, "n_layer": 2, "n_head": 4}),
    "cohere": ("CohereConfig", GROUPED),
    "falcon": (
        "FalconConfig",
        {**WORDS, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    ),
    "gemma": ("GemmaConfig", {**GROUPED, "head_dim": 16}),
    "gemma2": ("Gemma2Config", {**GROUPED, "head_dim": 16, "sliding_window": 32}),
    "gemma3": ("Gemma3TextConfig", {**GROUPED, "head_dim": 16, "sliding_window": 32}),
    "gpt2": ("GPT2Config", GPT),
    "gpt_bigcode": ("GPTBigCodeConfig", GPT),
    "gpt_neo": (
        "GPTNeoConfig",
        {**WORDS, "hidden_size": 64, "num_layers": 2, "num_heads": 4, "attention_types": [[["global"], 2]]},
    ),
    "gpt_neox": ("GPTNeoXConfig", NARROW),
    "gptj": ("GPTJConfig", {**GPT, "rotary_dim": 16}),
    "granite": ("GraniteConfig", GROUPED),
    "llama": ("LlamaConfig", GROUPED),
    "mamba": ("MambaConfig", {**WORDS, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8}),
    "mistral": ("MistralConfig", {**GROUPED, "sliding_window": 32}),
    "mixtral": ("MixtralConfig", {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "olmo2": ("Olmo2Config", GROUPED),
    "opt": (
        "OPTConfig",
        {**WORDS, "hidden_size": 64, "ffn_dim": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
        | {"word_embed_proj_dim": 64},
    ),
    "phi": ("PhiConfig", GROUPED),
    "phi3": ("Phi3Config", GROUPED),
    "qwen2": ("Qwen2Config", GROUPED),
    "qwen2_tied": ("Qwen2Config", {**GROUPED, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {**GROUPED, "head_dim": 16}),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {**GROUPED, "head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64},
    ),
    "smollm3": ("SmolLM3Config", GROUPED),
    "stablelm": ("StableLmConfig", GROUPED),
    "starcoder2": ("Starcoder2Config", GROUPED),
}


def make_config(name: str) -> Any:
    """The config of a family, by transformers' own class."""
    import transformers

    kind, values = CONFIGS[name]
    return getattr(transformers, kind)(**values)


def full(folder: Path, seed: int, name: str) -> World:
    """Every weight of it trained, its gradients accumulated."""
    return _use(sft(folder, seed, pairs_of_text(seed, 24), gradient_accumulation_steps=2), seed, name)


def lora(folder: Path, seed: int, name: str) -> World:
    """Adapters on every linear layer of it; of Mamba on those that PEFT takes."""
    targets = {"target_modules": ["in_proj", "x_proj"]} if name == "mamba" else {}
    return _use(sft(folder, seed, pairs_of_text(seed, 24), lora={**LORA, **targets}), seed, name)


def packed(folder: Path, seed: int, name: str) -> World:
    """Plain text in packs."""
    rows = [{"text": f"{asked} {answer}"} for asked, answer in questions(seed, 32)]
    return _use(sft(folder, seed, rows, packing=True, max_length=128), seed, name)


def _use(world: World, seed: int, name: str) -> World:
    world.recipe["model"]["path"] = str(save_model(world.folder / name, make_config(name), seed, world.rows))
    return world


MIXING = ("bloom", "falcon", "mamba", "opt")
"""Families whose documents see each other in a pack: that is a fault, and TRAIN034 tells it."""

families: tuple[Healthy, ...] = (
    *variants(full, [(name, name) for name in CONFIGS]),
    *variants(lora, [(name, name) for name in CONFIGS]),
    *variants(packed, [(name, name) for name in CONFIGS if name not in MIXING]),
)
