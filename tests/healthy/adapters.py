"""LoRA in the forms that people train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.healthy.worlds import LORA, chats, healthy, pairs_of_text, save_base, sft, variants

from ftrun.checks.testing import World


def lora(folder: Path, seed: int, changes: dict[str, Any]) -> World:
    """Plain answers, adapters trained."""
    return sft(folder, seed, pairs_of_text(seed), lora={**LORA, **changes})


forms = variants(
    lora,
    [
        ("all_linear", {}),
        ("attention", {"target_modules": ["q_proj", "v_proj"]}),
        ("regex", {"target_modules": r".*\.layers\.\d+\.(self_attn|mlp)\.(q_proj|up_proj)"}),
        ("last_layer", {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1]}),
        ("rank_one", {"r": 1, "lora_alpha": 2}),
        ("high_rank", {"r": 128, "lora_alpha": 128}),
        ("rank_stabilised", {"r": 64, "lora_alpha": 16, "use_rslora": True}),
        ("ranks_differ", {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"q_proj": 8}}),
        ("dora", {"use_dora": True}),
        ("pissa", {"init_lora_weights": "pissa"}),
        ("olora", {"init_lora_weights": "olora"}),
        ("gaussian", {"init_lora_weights": "gaussian"}),
        ("dropout", {"lora_dropout": 0.1}),
        ("biases", {"bias": "all"}),
        ("whole_head", {"modules_to_save": ["embed_tokens", "lm_head"]}),
        ("adapter_on_the_embedding", {"target_modules": ["embed_tokens", "v_proj"]}),
        ("rows_of_the_embedding", {"trainable_token_indices": [2, 3]}),
        ("excluded", {"exclude_modules": ["down_proj"]}),
        ("alpha_of_the_rank", {"r": 16, "lora_alpha": 16}),
        ("alpha_of_two_ranks", {"r": 16, "lora_alpha": 32}),
    ],
)


@healthy
def lora_on_tied_embeddings(folder: Path, seed: int) -> World:
    from tests.healthy.models import save_tiny

    world = lora(folder, seed, {})
    world.recipe["model"]["path"] = str(
        save_tiny(folder / "tied", seed, world.rows, tie_word_embeddings=True)
    )
    return world


@healthy
def full_with_tied_embeddings(folder: Path, seed: int) -> World:
    from tests.healthy.models import save_tiny

    world = sft(folder, seed, pairs_of_text(seed))
    world.recipe["model"]["path"] = str(
        save_tiny(folder / "tied", seed, world.rows, tie_word_embeddings=True)
    )
    return world


@healthy
def lora_with_checkpointing(folder: Path, seed: int) -> World:
    rows = chats(seed, turns=2)
    return sft(folder, seed, rows, lora=LORA, gradient_checkpointing=True, gradient_accumulation_steps=2)


def save_adapter(folder: Path, seed: int, base: str, task: str = "CAUSAL_LM") -> str:
    """An adapter on `base` as an earlier run leaves it, moved away from its start by the seed."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tuned: Any = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(r=4, target_modules="all-linear", task_type=task),
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.data.normal_(0.0, 0.01)
    tuned.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return str(folder)


@healthy
def full_from_an_adapter(folder: Path, seed: int) -> World:
    world = sft(folder, seed, pairs_of_text(seed))
    world.recipe["model"]["path"] = save_adapter(folder / "adapter", seed, save_base(world, seed))
    return world


@healthy
def lora_from_an_adapter(folder: Path, seed: int) -> World:
    world = lora(folder, seed, {})
    world.recipe["model"]["path"] = save_adapter(folder / "adapter", seed, save_base(world, seed))
    return world
