"""Faults of ours: PPO."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.faults.materials import copy_model
from tests.faults.plants import Fault

from ftrun.checks.stages import AtModel
from ftrun.checks.testing import World, ppo_chat, ppo_full

OURS, NO_PPO = "ours", "TRL 1.16 has no PPO"


def write_reward(world: World, body: str) -> None:
    """Put another function in the place of the world's reward."""
    (world.folder / "rewards.py").write_text(
        f"def share_of_letters(completions):\n    {body}\n", encoding="utf-8"
    )


X170 = Fault("X170", "A reward is not a number.", "ppo", "step", OURS)


@X170.planted(ppo_full, told="TRAIN013", at="step", trl=NO_PPO)
def one_score_is_nan(world: World) -> None:
    write_reward(world, "return [float('nan')] + [1.0] * (len(completions) - 1)")


X171 = Fault("X171", "A reward function returns fewer scores than it is given answers.", "ppo", "step", OURS)


@X171.planted(ppo_full, told="TRAIN013", at="step", trl=NO_PPO)
def one_score_is_missing(world: World) -> None:
    write_reward(world, "return [1.0] * (len(completions) - 1)")


X172 = Fault("X172", "All rewards are alike.", "ppo", "step", OURS)


@X172.planted(ppo_full, told="PPO009", at="step", trl=NO_PPO)
def every_answer_is_worth_one(world: World) -> None:
    world.recipe["reward"]["penalties"] = None
    write_reward(world, "return [1.0] * len(completions)")


X173 = Fault(
    "X173",
    "Rewards are discounted to nothing before they reach the tokens that earned them.",
    "ppo",
    "recipe",
    OURS,
)


@X173.planted(ppo_full, told="PPO012", at="recipe", trl=NO_PPO)
def a_discount_of_zero(world: World) -> None:
    world.recipe["training"]["gamma"] = 0.0


X174 = Fault(
    "X174",
    "The ratio is clipped at 1, so that every update but the first does nothing.",
    "ppo",
    "recipe",
    OURS,
)


@X174.planted(ppo_full, told="REC012", at="recipe", trl=NO_PPO)
def a_clip_range_of_zero(world: World) -> None:
    world.recipe["training"]["cliprange"] = 0.0


X175 = Fault("X175", "The value model is not trained.", "ppo", "recipe", OURS)


@X175.planted(ppo_full, told="PPO013", at="recipe", trl=NO_PPO)
def the_value_loss_has_no_weight(world: World) -> None:
    world.recipe["training"]["vf_coef"] = 0.0


X176 = Fault("X176", "The optimizer moves the reference.", "ppo", "model", OURS)


@X176.planted(ppo_full, told="PPO007", at="model", trl=NO_PPO)
def a_layer_is_shared_with_the_reference(world: World) -> None:
    def damage(at: Any) -> Any:
        at.trainer.reference.model.layers[0] = at.trainer.model.policy.model.layers[0]
        return at

    world.after(AtModel, damage)


X177 = Fault(
    "X177",
    "Answers are sampled at another temperature than their probabilities are computed at.",
    "ppo",
    "model",
    OURS,
)


@X177.planted(ppo_full, told="TRAIN041", at="model", trl=NO_PPO)
def sampling_is_colder(world: World) -> None:
    def damage(at: Any) -> Any:
        at.trainer.sampling = replace(at.trainer.sampling, temperature=0.3)
        return at

    world.after(AtModel, damage)


X178 = Fault("X178", "Prompts are there many times over.", "ppo", "data", OURS)


@X178.planted(ppo_full, ppo_chat, told=("DATA020", "DATA021"), at="data", trl=NO_PPO)
def two_prompts_are_all(world: World) -> None:
    world.rows = world.rows[:2] * 24


X179 = Fault("X179", "Prompts are empty.", "ppo", "data", OURS)


@X179.planted(ppo_full, told="DATA006", at="data", trl=NO_PPO)
def a_third_of_the_prompts_is_empty(world: World) -> None:
    for row in world.rows[::3]:
        row["prompt"] = " "


X180 = Fault("X180", "Conversations to be answered end with an answer.", "ppo", "data", OURS)


@X180.planted(ppo_chat, told=("DATA004", "DATA005"), at="data", trl=NO_PPO)
def prompts_hold_the_answer(world: World) -> None:
    for row in world.rows:
        row["prompt"] = [*row["prompt"], {"role": "assistant", "content": row["wanted"]}]


X181 = Fault(
    "X181",
    "Attention drops out in updates and not in rollouts, so that ratios are noise.",
    "ppo",
    "step",
    OURS,
)


@X181.planted(ppo_full, told="PPO010", at="step", trl=NO_PPO)
def attention_drops_out(world: World) -> None:
    copy_model(world, config=lambda config: config.update(attention_dropout=0.3))
    world.recipe["training"]["disable_dropout"] = False


X182 = Fault("X182", "Responses are cut off before an answer can end.", "ppo", "recipe", OURS)


@X182.planted(ppo_full, told="PPO014", at="recipe", trl=NO_PPO)
def responses_of_two_tokens(world: World) -> None:
    world.recipe["training"]["response_length"] = 2
