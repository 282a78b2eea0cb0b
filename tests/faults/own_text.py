"""Faults of ours: tokens, labels and batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.faults.materials import ANSWER, ASK, SYSTEM, change_batch, write_template
from tests.faults.plants import Fault, PlainRun

from ftrun.checks.rows import IGNORED
from ftrun.checks.stages import AtData, AtModel
from ftrun.checks.testing import World, dpo_chat, dpo_full, ppo_chat, reward_full, sft_chat, sft_full

OURS = "ours"


def _shift_in_trl(run: PlainRun) -> PlainRun:
    def shift(batch: Any) -> Any:
        import torch

        batch["labels"] = torch.roll(batch["labels"], -1, dims=1)
        return batch

    return change_batch(run, shift)


X101 = Fault("X101", "Labels are shifted by one before the model shifts them.", "sft", "data", OURS)


@X101.planted(sft_full, sft_chat, told="DATA008", at="data", trl=_shift_in_trl)
def labels_are_shifted_twice(world: World) -> None:
    import numpy as np

    world.after(AtData, lambda at: replace(at, train=replace(at.train, labels=np.roll(at.train.labels, -1))))


X102 = Fault(
    "X102",
    "What the template writes to ask for an answer is not what stands before answers in training.",
    "all",
    "data",
    OURS,
)


@X102.planted(sft_chat, dpo_chat, told="DATA046", at="data")
def the_model_is_asked_as_a_bot(world: World) -> None:
    write_template(world, SYSTEM + ANSWER + ASK.replace("assistant", "bot"))


@X102.planted(ppo_chat, told="DATA046", at="data", trl="TRL 1.16 has no PPO")
def nothing_asks_for_an_answer(world: World) -> None:
    write_template(world, SYSTEM + ANSWER)


X103 = Fault("X103", "The text was decoded wrongly: UTF-8 read as Latin-1.", "all", "data", OURS)


@X103.planted(sft_full, dpo_full, reward_full, told="DATA047", at="data")
def accents_became_two_letters(world: World) -> None:
    for row in world.rows:
        for side in ("completion", "chosen", "rejected"):
            if side in row:
                row[side] = f"Voilà, très sûr: {row[side]}".encode().decode("latin-1")


X104 = Fault("X104", "An export cut every long answer at one length.", "all", "data", OURS)


@X104.planted(sft_full, told="DATA048", at="data")
def answers_end_at_two_hundred_and_fifty_five(world: World) -> None:
    for number, row in enumerate(world.rows):
        if number % 3:
            row["completion"] = (f"{'Well, ' * (number % 7)}it is like this. {row['completion']} " * 9)[:255]
    world.recipe["training"]["max_length"] = 512


X105 = Fault(
    "X105", "Answers go on with a turn of the user and another answer, marks and all.", "sft", "data", OURS
)


@X105.planted(sft_full, told="DATA050", at="data")
def a_dialogue_in_one_answer(world: World) -> None:
    for row in world.rows:
        row["completion"] += (
            "<|im_end|>\n<|im_start|>user\nAnd the door?<|im_end|>\n<|im_start|>assistant\nIt is grey."
        )


X106 = Fault("X106", "The collator gives each row the labels of another one.", "sft", "step", OURS)


@X106.planted(sft_full, told="DATA028", at="step")
def labels_of_the_neighbour(world: World) -> None:
    def rotate(batch: Any) -> Any:
        import torch

        batch["labels"] = torch.roll(batch["labels"], 1, dims=0)
        return batch

    world.after(AtModel, lambda at: change_batch(at, rotate))


X107 = Fault("X107", "The collator cuts rows to a length of its own.", "all", "step", OURS)


@X107.planted(sft_full, told="DATA028", at="step")
def rows_of_sixteen_tokens(world: World) -> None:
    def cut(batch: Any) -> Any:
        return {name: value[:, :16] for name, value in batch.items()}

    world.after(AtModel, lambda at: change_batch(at, cut))


X108 = Fault("X108", "Rows are padded on the left, and the padding is attended to.", "sft", "step", OURS)


@X108.planted(sft_full, told=("TRAIN032", "DATA028"), at="step")
def padding_is_attended_to(world: World) -> None:
    def turn(batch: Any) -> Any:
        import torch

        for row, mask in enumerate(batch["attention_mask"].clone()):
            shift = len(mask) - int(mask.sum())
            for name in ("input_ids", "labels"):
                batch[name][row] = torch.roll(batch[name][row], shift)
        batch["attention_mask"].fill_(1)
        return batch

    for row in world.rows[::2]:
        row["completion"] *= 3
    world.after(AtModel, lambda at: change_batch(at, turn))


X109 = Fault("X109", "The trainer has been given fewer rows than were prepared.", "all", "model", OURS)


@X109.planted(sft_full, dpo_full, reward_full, told="DATA049", at="model")
def half_of_the_rows_are_gone(world: World) -> None:
    def damage(at: Any) -> Any:
        at.trainer.train_dataset = at.trainer.train_dataset.select(range(16))
        return at

    world.after(AtModel, damage)


X121 = Fault(
    "X121", "Some labels of the batch are masked at random places of the answer.", "sft", "step", OURS
)


@X121.planted(sft_full, told="DATA028", at="step")
def every_third_label_is_masked(world: World) -> None:
    def mask(batch: Any) -> Any:
        batch["labels"][:, ::3] = IGNORED
        return batch

    world.after(AtModel, lambda at: change_batch(at, mask))
