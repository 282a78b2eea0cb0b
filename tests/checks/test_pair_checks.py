"""Checks of pairs and of reward models: what is nearly a fault is none, and what hides is found."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from ftrun.checks.catalogue import load_checks
from ftrun.checks.report import Result
from ftrun.checks.stages import AtModel
from ftrun.checks.testing import World, dpo_chat, reward_full, reward_lora
from ftrun.runner.preflight import climb
from ftrun.runner.tiny import locate

CHECKS = {check.id: check for check in load_checks()}


def judge(id: str, world: World) -> Result:
    """What one check says of a world."""
    report = climb(world.write(), checks=(CHECKS[id],), after=world.apply)
    return next(result for result in report.results if result.check.id == id)


def test_one_answer_may_be_better_than_several_and_worse_than_another(tmp_path: Path) -> None:
    world = reward_full(tmp_path)
    first = world.rows[0]
    world.rows += [
        {**first, "rejected": "It has no colour."},
        {**first, "chosen": "It is scarlet.", "rejected": first["chosen"]},
    ]
    assert judge("DATA041", world).verdict == "passed"
    world.rows.append({**first, "chosen": first["rejected"], "rejected": first["chosen"]})
    (finding,) = judge("DATA041", world).findings
    assert finding.severity == "warning" and finding.where.row == 1


@pytest.mark.parametrize(("share", "verdict"), [(0.85, "passed"), (0.95, "found")])
def test_answers_may_be_longer_often_but_not_always(share: float, verdict: str, tmp_path: Path) -> None:
    world = reward_full(tmp_path)
    world.rows = world.rows * 3
    for i, row in enumerate(world.rows):
        side = "chosen" if i < share * len(world.rows) else "rejected"
        world.rows[i] = {**row, side: f"{row[side]} I went there, looked at it myself, and I am sure of it."}
    assert judge("DATA042", world).verdict == verdict
    world.rows = world.rows[:20]
    assert judge("DATA042", world).verdict == "not_applicable"


def test_greetings_that_are_returned_are_no_repeated_prompt(tmp_path: Path) -> None:
    world = dpo_chat(tmp_path)
    for row in world.rows:
        row["prompt"] = [{"role": "user", "content": "Hello!"}]
        row["chosen"] = [{"role": "assistant", "content": "Hello! How can I help you?"}]
    assert judge("DATA043", world).verdict == "passed"


def test_pairs_with_a_side_too_long_are_told_for_each_split(tmp_path: Path) -> None:
    world = reward_full(tmp_path)
    world.eval_rows = [{**row, "chosen": row["chosen"] * 30} for row in world.rows[:4]]
    world.recipe["data"]["eval"] = [{"path": "eval.jsonl"}]
    world.recipe["training"]["eval_strategy"] = "epoch"
    (finding,) = judge("DATA044", world).findings
    assert (
        finding.severity == "error" and "4 of 4 pairs" in finding.message and "data.eval" in finding.message
    )


def test_a_finished_reward_model_is_a_good_start_and_one_without_its_head_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(locate(), folder)
    AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1).save_pretrained(folder)
    world = reward_lora(tmp_path)
    world.recipe["model"]["path"] = str(folder)
    assert judge("RM001", world).verdict == judge("MODEL008", world).verdict == "passed"

    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["v_head.weight"] = tensors.pop("score.weight")
    save_file(tensors, file, metadata={"format": "pt"})
    first = judge("MODEL008", world).findings[0]
    assert first.severity == "error" and first.evidence == ("score.weight",)


def test_padding_with_the_end_of_text_is_told_where_rows_end_with_it(tmp_path: Path) -> None:
    def pad_with_the_end(at: AtModel) -> AtModel:
        collator: Any = at.trainer.data_collator
        collator.pad_token_id = at.model.config.pad_token_id = at.tokenizer.eos_token_id
        return at

    world = reward_full(tmp_path)
    world.after(AtModel, pad_with_the_end)
    (finding,) = judge("RM003", world).findings
    assert finding.severity == "warning" and "64 of 64 rows" in finding.message
