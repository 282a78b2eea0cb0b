"""PPO: prompts, rewards of several kinds, settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.healthy.adapters import save_adapter
from tests.healthy.architectures import make_config
from tests.healthy.models import save_model
from tests.healthy.rewards import save_reward_model
from tests.healthy.templates import use_template
from tests.healthy.worlds import LORA, draft, healthy, hold_out, questions, save_base, variants

from ftrun.checks.testing import World

REWARDS = """
def share_of_letters(completions):
    return [sum(map(str.isalpha, text)) / (len(text) + 1) for text in completions]


def likeness(completions, wanted):
    return [len(set(text) & set(right)) / 10 for text, right in zip(completions, wanted)]
"""


def ppo(folder: Path, seed: int, rows: Sequence[dict[str, Any]], **training: Any) -> World:
    """A PPO run on prompts, paid by a function."""
    settings = {"response_length": 12, "num_mini_batches": 2, "num_ppo_epochs": 2, **training}
    world = draft(folder, seed, "ppo", rows, **settings)
    world.recipe["reward"] = {
        "functions": ["rewards.py:share_of_letters"],
        "penalties": {"too_short": None},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rewards.py").write_text(REWARDS, encoding="utf-8")
    return world


def prompts(seed: int, count: int = 32) -> list[dict[str, Any]]:
    """Plain prompts, each with the answer that is wanted."""
    return [{"prompt": f"{asked}\n", "wanted": answer} for asked, answer in questions(seed, count)]


def chat_prompts(seed: int, count: int = 32, system: str | None = None) -> list[dict[str, Any]]:
    """Conversations that end with a question."""
    head = [] if system is None else [{"role": "system", "content": system}]
    return [
        {"prompt": [*head, {"role": "user", "content": asked}], "wanted": answer}
        for asked, answer in questions(seed, count)
    ]


@healthy
def rollouts(folder: Path, seed: int) -> World:
    return hold_out(ppo(folder, seed, prompts(seed)))


@healthy
def more_prompts_than_are_answered(folder: Path, seed: int) -> World:
    """An evaluation answers 64 of the prompts that are held out."""
    return hold_out(ppo(folder, seed, prompts(seed, 160)), 0.5)


@healthy
def rollouts_of_chats(folder: Path, seed: int) -> World:
    return hold_out(ppo(folder, seed, chat_prompts(seed, system="You know the house.")))


@healthy
def several_rewards(folder: Path, seed: int) -> World:
    """Two functions, one of which reads a column, and every rule."""
    world = ppo(folder, seed, prompts(seed))
    world.recipe["reward"] = {
        "functions": ["rewards.py:share_of_letters", "rewards.py:likeness"],
        "penalties": {
            "repetition": 1.0,
            "too_long": {"words": 10},
            "too_short": {"words": 2, "penalty": 0.5},
        },
    }
    return world


@healthy
def reward_model_scores(folder: Path, seed: int) -> World:
    world = ppo(folder, seed, prompts(seed))
    world.recipe["reward"] = {"models": [save_reward_model(folder / "scorer", seed)], "penalties": None}
    return world


@healthy
def ensemble_scores(folder: Path, seed: int) -> World:
    """Two models and a function; the value model starts from the first."""
    world = ppo(folder, seed, chat_prompts(seed))
    scorers = [save_reward_model(folder / f"scorer-{n}", seed + 10 * n) for n in (1, 2)]
    world.recipe["reward"] = {
        "models": scorers,
        "functions": ["rewards.py:likeness"],
        "penalties": {"too_short": None},
    }
    world.recipe["value"] = {"path": "reward"}
    return world


@healthy
def rollouts_under_lora(folder: Path, seed: int) -> World:
    world = ppo(folder, seed, prompts(seed), learning_rate=2e-4)
    world.recipe["model"]["lora"] = LORA
    world.recipe["value"] = {"lora": LORA}
    return world


@healthy
def lora_policy_whole_value(folder: Path, seed: int) -> World:
    world = ppo(folder, seed, prompts(seed))
    world.recipe["model"]["lora"] = LORA
    return world


@healthy
def ppo_from_an_adapter(folder: Path, seed: int) -> World:
    world = ppo(folder, seed, prompts(seed))
    world.recipe["model"]["lora"] = LORA
    world.recipe["model"]["path"] = save_adapter(folder / "adapter", seed, save_base(world, seed))
    return world


def rollouts_with(folder: Path, seed: int, training: dict[str, Any]) -> World:
    """Plain prompts, and a few settings."""
    return ppo(folder, seed, prompts(seed), **training)


rollout_settings = variants(
    rollouts_with,
    [
        ("adaptive_kl", {"kl_target": 6.0}),
        ("strong_kl", {"kl_coef": 0.2}),
        ("missing_eos_penalty", {"missing_eos_penalty": 1.0}),
        ("cool_sampling", {"temperature": 0.7}),
        ("one_minibatch", {"num_mini_batches": 1}),
        ("accumulated", {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}),
        ("scores_scaled", {"use_score_scaling": True, "use_score_norm": True}),
        ("scores_clipped", {"score_clip": 5.0}),
        ("discounted", {"gamma": 0.99, "lam": 0.9}),
        ("shortest_answers", {"min_response_length": 4}),
        ("bf16", {"bf16": True, "use_cpu": True}),
        ("longer_prompts_left_out", {"max_prompt_length": 64}),
    ],
)


def ppo_family(folder: Path, seed: int, name: str) -> World:
    """Model families of other kinds."""
    world = ppo(folder, seed, prompts(seed, 24))
    world.recipe["model"]["path"] = str(save_model(folder / name, make_config(name), seed, world.rows))
    return world


ppo_families = variants(
    ppo_family, [(name, name) for name in ("gpt2", "qwen2_tied", "opt", "gpt_neox", "phi3")]
)


def ppo_template(folder: Path, seed: int, name: str) -> World:
    """Conversations rendered by templates that TRL ships."""
    world = ppo(folder, seed, chat_prompts(seed, 24))
    use_template(world, seed, name)
    return world


ppo_templates = variants(ppo_template, [(name, name) for name in ("qwen3", "llama3", "gemma3")])
