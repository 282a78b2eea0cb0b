"""Faults of on-policy training."""

from __future__ import annotations

from typing import Any

from tests.faults.materials import copy_model, edit_json, remake_optimizer
from tests.faults.plants import Fault, Unplanted

from ftrun.checks.stages import AtModel
from ftrun.checks.testing import World, ppo_full

NO_PPO = "TRL 1.16 has no PPO"

L003 = Unplanted(
    Fault(
        "L003",
        "The score is written on the padding behind the end of a response.",
        method="ppo",
        earliest="step",
        source="trl#3750, trl#5338",
    ),
    reason="prevented",
    why="the trainer is ftrun's own, and its formulas are tested one by one",
    shown_by="tests/runner/test_ppo_objective.py::test_the_score_is_on_the_last_token_and_the_penalty_on_every_one",
)

L004 = Fault(
    "L004",
    "Responses end with another token than the one that is looked for, so that all or none count as cut off.",
    method="ppo",
    earliest="step",
    source="trl#5338, trl#2012, trl#2033",
)


@L004.planted(ppo_full, told="PPO004", at="data", trl=NO_PPO)
def conversations_end_with_another_token(world: World) -> None:
    def rename(tokenizer: Any) -> None:
        tokenizer.eos_token = tokenizer.bos_token

    folder = copy_model(world, tokenizer=rename, config=lambda config: config.update(eos_token_id=1))
    edit_json(folder / "generation_config.json", lambda config: config.update(eos_token_id=1))
    world.recipe["training"]["missing_eos_penalty"] = 1.0
    world.rows = [{"prompt": [{"role": "user", "content": row["prompt"]}]} for row in world.rows]


L006 = Unplanted(
    Fault(
        "L006",
        "All responses are cut off and masked: no token is trained.",
        method="ppo",
        earliest="step",
        source="trl#3229, trl#6439",
    ),
    reason="prevented",
    why="ftrun's PPO masks no response for being cut off; it can be given a penalty",
    shown_by="tests/runner/test_ppo_trainer.py::test_padding_and_what_follows_the_end_carry_nothing",
)

L009 = Fault(
    "L009",
    "The KL coefficient is 0, and nothing says so.",
    method="ppo",
    earliest="recipe",
    source="trl#2806",
)


@L009.planted(ppo_full, told="PPO001", at="recipe", trl=NO_PPO)
def a_coefficient_of_zero(world: World) -> None:
    world.recipe["training"]["kl_coef"] = 0.0


L013 = Fault(
    "L013",
    "The value model gets no gradient through its trunk.",
    method="ppo",
    earliest="step",
    source="trl#1664, trl#5245, trl#5908, trl#6202",
)


@L013.planted(ppo_full, told=("TRAIN017", "TRAIN018"), at="step", trl=NO_PPO)
def the_value_models_states_are_detached(world: World) -> None:
    def damage(at: Any) -> Any:
        at.trainer.model.value.score.register_forward_pre_hook(
            lambda module, inputs: tuple(one.detach() for one in inputs)
        )
        return at

    world.after(AtModel, damage)


L014 = Fault(
    "L014",
    "The value model shares weights with the policy.",
    method="ppo",
    earliest="model",
    source="LLaMA-Factory#4379",
)


@L014.planted(ppo_full, told="PPO005", at="model", trl=NO_PPO)
def one_trunk_for_both(world: World) -> None:
    def damage(at: Any) -> Any:
        at.trainer.model.value.model = at.trainer.model.policy.model
        remake_optimizer(at.trainer)
        return at

    world.after(AtModel, damage)


L015 = Unplanted(
    Fault(
        "L015",
        "What stands behind the end of a response is in the loss.",
        method="ppo",
        earliest="step",
        source="trl#1718, trl#2708, trl#2575, torchtune#2425, trl#763",
    ),
    reason="prevented",
    why="the trainer is ftrun's own, and a test changes what stands behind the end",
    shown_by="tests/runner/test_ppo_trainer.py::test_padding_and_what_follows_the_end_carry_nothing",
)

L016 = Unplanted(
    Fault(
        "L016",
        "What is saved is a wrapper around the policy, which loads as a model with random weights.",
        method="ppo",
        earliest="step",
        source="trl#5151, trl#1776, trl#3998, trl#2080",
    ),
    reason="prevented",
    why="the policy alone is saved, and a test loads it",
    shown_by="tests/runner/test_ppo_trainer.py::test_what_is_saved_is_the_policy_as_it_answers",
)

L021 = Fault(
    "L021",
    "The reward model is a language model, whose score head would be random.",
    method="ppo",
    earliest="model",
    source="trl#1379, ms-swift#3926",
)


@L021.planted(ppo_full, told="MODEL001", at="model", trl=NO_PPO)
def the_base_scores(world: World) -> None:
    from ftrun.runner.tiny import locate

    world.recipe["reward"]["models"] = [str(locate())]
