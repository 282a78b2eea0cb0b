"""Reward models."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.healthy.adapters import save_adapter
from tests.healthy.architectures import make_config
from tests.healthy.models import save_model
from tests.healthy.preferences import (
    chat_pairs,
    letters_as_answers,
    pairs,
    pairs_of_whole_chats,
    pairs_of_whole_texts,
)
from tests.healthy.templates import use_template
from tests.healthy.worlds import LORA, Healthy, draft, healthy, hold_out, save_base, variants

from ftrun.checks.testing import World


def reward(
    folder: Path,
    seed: int,
    rows: Sequence[dict[str, Any]],
    *,
    lora: dict[str, Any] | None = None,
    **training: Any,
) -> World:
    """A reward model trained on pairs."""
    return draft(folder, seed, "reward", rows, lora=lora, **{"max_length": 512, **training})


@healthy
def reward_of_pairs(folder: Path, seed: int) -> World:
    return hold_out(reward(folder, seed, pairs(seed)))


@healthy
def reward_of_chats(folder: Path, seed: int) -> World:
    return hold_out(reward(folder, seed, chat_pairs(seed, system="You know the house.")))


@healthy
def reward_under_lora(folder: Path, seed: int) -> World:
    return reward(folder, seed, pairs(seed), lora=LORA)


@healthy
def reward_with_margins(folder: Path, seed: int) -> World:
    draw = random.Random(seed)
    return reward(folder, seed, [{**row, "margin": draw.choice([0.5, 1.0, 2.0])} for row in pairs(seed)])


def _as_reward(other: Healthy) -> Healthy:
    """A world of DPO as one of a reward model: the same rows."""

    def make(folder: Path, seed: int) -> World:
        world = other.make(folder, seed)
        world.recipe["method"] = "reward"
        return world

    return Healthy(f"reward_{other.name}", make)


same_rows = tuple(_as_reward(one) for one in (letters_as_answers, pairs_of_whole_chats, pairs_of_whole_texts))


def reward_trained_with(folder: Path, seed: int, training: dict[str, Any]) -> World:
    """Plain pairs, and a few settings."""
    return reward(folder, seed, pairs(seed), **training)


reward_settings = variants(
    reward_trained_with,
    [
        ("centred", {"center_rewards_coefficient": 0.01}),
        ("higher_rate", {"learning_rate": 6e-4}),
        ("batch_of_one", {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}),
        ("bf16", {"bf16": True, "use_cpu": True}),
        ("one_epoch", {"num_train_epochs": 1}),
        ("padded", {"pad_to_multiple_of": 16}),
    ],
)


@healthy
def reward_from_an_adapter(folder: Path, seed: int) -> World:
    """The model that supervised training left."""
    world = reward(folder, seed, pairs(seed), lora=LORA)
    world.recipe["model"]["path"] = save_adapter(folder / "adapter", seed, save_base(world, seed))
    return world


def save_reward_model(folder: Path, seed: int) -> str:
    """A reward model as an earlier run leaves it, built as `tiny`."""
    import shutil

    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    from ftrun.runner.tiny import CONFIG, TOKENIZER_FILES, locate

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = LlamaForSequenceClassification(LlamaConfig(**{**CONFIG, "num_labels": 1}))
    model.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copyfile(locate() / name, folder / name)
    return str(folder)


@healthy
def reward_continued(folder: Path, seed: int) -> World:
    """A reward model is trained on."""
    world = reward(folder, seed, pairs(seed))
    world.recipe["model"]["path"] = save_reward_model(folder / "scorer", seed)
    return world


def reward_family(folder: Path, seed: int, name: str) -> World:
    """Model families of other kinds."""
    world = reward(folder, seed, pairs(seed, 24), lora=LORA if seed % 2 else None)
    world.recipe["model"]["path"] = str(save_model(folder / name, make_config(name), seed, world.rows))
    return world


reward_families = variants(
    reward_family,
    [(name, name) for name in ("gpt2", "gpt_neox", "qwen2_tied", "gemma2", "opt", "phi3", "mixtral")],
)


def reward_template(folder: Path, seed: int, name: str) -> World:
    """Pairs that end conversations, rendered by templates that TRL ships."""
    world = reward(folder, seed, chat_pairs(seed, 24), max_length=1024)
    use_template(world, seed, name)
    return world


reward_templates = variants(reward_template, [(name, name) for name in ("qwen3", "llama3", "gemma3", "phi3")])
