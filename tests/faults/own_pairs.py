"""Faults of ours: pairs, references and scores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.faults.materials import change_batch
from tests.faults.plants import Fault

from ftrun.checks.stages import AtData, AtModel
from ftrun.checks.testing import World, dpo_full, reward_full, reward_lora

OURS = "ours"

X150 = Fault("X150", "Chosen and rejected are exchanged.", "dpo", "recipe", OURS)


@X150.planted(dpo_full, reward_full, told="DATA045", at="recipe")
def columns_are_mapped_crosswise(world: World) -> None:
    world.rows = [
        {"prompt": row["prompt"], "better": row["chosen"], "worse": row["rejected"]} for row in world.rows
    ]
    world.recipe["data"]["train"][0]["columns"] = {"chosen": "worse", "rejected": "better"}


@X150.planted(dpo_full, reward_full, told="DATA045", at="recipe")
def scores_say_the_opposite(world: World) -> None:
    for row in world.rows:
        row |= {"score_chosen": 2.0, "score_rejected": 8.0}


def _train_all(at: Any) -> Any:
    def train(batch: Any) -> Any:
        batch["completion_mask"] = batch["attention_mask"].clone()
        return batch

    return change_batch(at, train)


X151 = Fault("X151", "The prompt counts as a part of both answers.", "dpo", "data", OURS)


@X151.planted(dpo_full, told="DATA008", at="data", trl=_train_all)
def prompts_are_in_the_sums(world: World) -> None:
    world.after(AtData, lambda at: replace(at, train=replace(at.train, labels=at.train.ids.copy())))


@X151.planted(dpo_full, told="DATA028", at="step")
def the_collator_masks_no_prompt(world: World) -> None:
    world.after(AtModel, _train_all)


X152 = Fault("X152", "The collator exchanges the sides of a pair.", "dpo", "step", OURS)


@X152.planted(dpo_full, reward_full, told="DATA028", at="step")
def rejected_answers_come_first(world: World) -> None:
    def exchange(batch: Any) -> Any:
        half = len(batch["input_ids"]) // 2
        for name, value in batch.items():
            if len(value) == 2 * half:
                batch[name] = value.roll(half, dims=0)
        return batch

    world.after(AtModel, lambda at: change_batch(at, exchange))


X153 = Fault(
    "X153",
    "Margins are negative: the loss is content while the rejected answer is ahead.",
    "reward",
    "data",
    OURS,
)


@X153.planted(reward_full, told="RM004", at="data")
def margins_are_negative(world: World) -> None:
    for row in world.rows:
        row["margin"] = -3.0


X154 = Fault("X154", "The head that scores begins with enormous scores.", "reward", "step", OURS)


@X154.planted(reward_full, told=("TRAIN043", "TRAIN018"), at="step")
def the_head_is_drawn_large(world: World) -> None:
    def damage(at: Any) -> Any:
        at.model.score.weight.data *= 1000
        return at

    world.after(AtModel, damage)


X155 = Fault("X155", "An adapter is saved with the head that it began with.", "reward", "step", OURS)


@X155.planted(reward_lora, told="MODEL023", at="step")
def the_head_is_saved_as_it_began(world: World) -> None:
    def damage(at: Any) -> Any:
        save = at.model.save_pretrained
        began = {name: p.detach().clone() for name, p in at.model.named_parameters() if "score" in name}

        def leave(folder: str, *args: Any, **kwargs: Any) -> None:
            from pathlib import Path

            from safetensors.torch import load_file, save_file

            save(folder, *args, **kwargs)
            path = Path(folder, "adapter_model.safetensors")
            weights = load_file(path)
            (head,) = (name for name in weights if "score" in name)
            save_file({**weights, head: next(iter(began.values()))}, path)

        at.model.save_pretrained = leave
        return at

    world.after(AtModel, damage)


X156 = Fault(
    "X156", "The preference has no weight beside the loss of supervised training.", "dpo", "recipe", OURS
)


@X156.planted(dpo_full, told="DPO004", at="recipe")
def the_weight_of_the_preference_is_zero(world: World) -> None:
    world.recipe["training"] |= {"loss_type": ["sigmoid", "sft"], "loss_weights": [0.0, 1.0]}


X157 = Fault(
    "X157", "Rejected answers belong to other prompts: the columns slipped by a row.", "dpo", "data", OURS
)


@X157.planted(dpo_full, told="DATA052", at="data")
def rejected_answers_slipped_by_a_row(world: World) -> None:
    slipped = [row["rejected"] for row in world.rows[1:]] + [world.rows[0]["rejected"]]
    for row, rejected in zip(world.rows, slipped, strict=True):
        row["rejected"] = rejected


X158 = Fault(
    "X158",
    "Chosen answers are nearly always the longer ones, and length is what is learnt.",
    "dpo",
    "data",
    OURS,
)


@X158.planted(dpo_full, reward_full, told="DATA042", at="data")
def chosen_answers_are_longer(world: World) -> None:
    for row in world.rows:
        row["chosen"] = f"{row['chosen']} I went there myself this morning and looked at it for a while."


X159 = Fault(
    "X159", "The reference is in training mode, and the policy is held to noise.", "dpo", "model", OURS
)


@X159.planted(dpo_full, told="DPO008", at="model")
def the_reference_trains(world: World) -> None:
    def damage(at: Any) -> Any:
        at.trainer.ref_model.train()
        return at

    world.after(AtModel, damage)
