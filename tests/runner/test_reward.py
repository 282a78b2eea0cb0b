"""Reward models: pairs as TRL makes them, the score head trained and saved, scores that padding does not change."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tokenizers import processors
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer

from ftrun.checks.stages import AtData, AtModel
from ftrun.checks.testing import World, reward_chat, reward_full, reward_lora
from ftrun.runner.methods.reward import ask, settle_pad_token
from ftrun.runner.preflight import ascend
from ftrun.runner.printing.text import make_console
from ftrun.runner.run import run_recipe
from ftrun.runner.scores import score_rows
from ftrun.runner.tiny import locate
from ftrun.runner.tracking.journal import read_journal

WEIGHTS = "adapter_model.safetensors"

CHAT = [
    {
        "prompt": [{"role": "user", "content": f"Is {i} even?"}],
        "chosen": [{"role": "assistant", "content": "Yes." if i % 2 == 0 else "No."}],
        "rejected": [{"role": "assistant", "content": "Perhaps, who can say?"}],
    }
    for i in range(8)
]
TEXT = [
    {"prompt": f"Is {i} even?\n", "chosen": "Yes." if i % 2 == 0 else "No.", "rejected": "Perhaps not. "}
    for i in range(8)
]


def implicit(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same pairs, with the prompt at the head of both sides."""
    return [
        {"chosen": row["prompt"] + row["chosen"], "rejected": row["prompt"] + row["rejected"]} for row in rows
    ]


def sharegpt(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same conversations in ShareGPT's words."""
    names = {"user": "human", "assistant": "gpt"}

    def turn(message: dict[str, str]) -> dict[str, str]:
        return {"from": names[message["role"]], "value": message["content"]}

    return [
        {
            "conversations": [turn(message) for message in row["prompt"]],
            "chosen": turn(row["chosen"][0]),
            "rejected": turn(row["rejected"][0]),
        }
        for row in rows
    ]


def build_tokenizer(folder: Path, *, bos: bool) -> Path:
    """The folder of `tiny` under another name, with a tokenizer that begins texts with a token where asked."""
    import shutil

    shutil.copytree(locate(), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if bos:
        token, id = tokenizer.bos_token, tokenizer.bos_token_id
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{token} $A", special_tokens=[(token, id)]
        )
        tokenizer.save_pretrained(folder)
    return folder


def climb_to(world: World, stage: type[Any]) -> Any:
    """The stage that a world without checks reaches."""
    ascent = ascend(
        world.write(), checks=(), folder=lambda file: world.folder / "out", needed=stage, after=world.apply
    )
    assert isinstance(ascent.at, stage), ascent.report.results[-1].reason
    return ascent.at


@pytest.mark.parametrize("bos", [False, True], ids=["plain", "bos"])
@pytest.mark.parametrize(
    ("rows", "theirs"),
    [
        (CHAT, CHAT),
        (implicit(CHAT), implicit(CHAT)),
        (sharegpt(CHAT), CHAT),
        (TEXT, TEXT),
        (implicit(TEXT), implicit(TEXT)),
    ],
    ids=["chat", "implicit chat", "sharegpt", "text", "implicit text"],
)
def test_pairs_are_those_that_trl_makes(
    rows: list[dict[str, Any]], theirs: list[dict[str, Any]], bos: bool, tmp_path: Path
) -> None:
    world = reward_full(tmp_path)
    world.rows = rows
    world.recipe["model"]["path"] = str(build_tokenizer(tmp_path / "model", bos=bos))
    world.recipe["training"]["max_length"] = 20  # leaves some pairs out, of either side's length
    ours = climb_to(world, AtData)

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    trainer = RewardTrainer(
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", num_labels=1),
        RewardConfig(str(tmp_path / "trl"), max_length=20, bf16=False, activation_checkpointing=False),
        train_dataset=Dataset.from_list(theirs),
        processing_class=tokenizer,
    )
    expected = trainer.train_dataset
    assert ours.train_dataset.column_names == ["chosen_ids", "rejected_ids"]
    for side in ("chosen_ids", "rejected_ids"):
        assert ours.train_dataset[side][:] == expected[side][:]
    (count,) = ours.counts
    assert count.adds_up and count.too_long == len(theirs) - len(expected) and count.kept == len(expected)


def test_margins_reach_the_loss_where_every_pair_has_one(tmp_path: Path) -> None:
    world = reward_lora(tmp_path)
    at = climb_to(world, AtModel)
    assert at.train_dataset["margin"][:3] == [0.0, 0.1, 0.2]
    (batch,) = at.trainer.get_batch_samples(iter(at.trainer.get_train_dataloader()), 1, torch.device("cpu"))[
        0
    ]
    assert set(batch["margin"].tolist()) <= {0.0, np.float32(0.1), np.float32(0.2)}

    del world.rows[3]["margin"]
    assert climb_to(world, AtData).train_dataset.column_names == ["chosen_ids", "rejected_ids"]


def run(world: World, sets: Sequence[str] = ()) -> Path:
    console = make_console()
    assert run_recipe(world.write(), sets=sets, ignore={}, out=console, err=console) == 0
    return world.folder / "runs" / "healthy-1"


def pad(rows: Sequence[list[int]], side: str, pad_id: int) -> dict[str, torch.Tensor]:
    width = max(map(len, rows))
    ids, mask = [], []
    for row in rows:
        empty = width - len(row)
        before, after = (empty, 0) if side == "left" else (0, empty)
        ids.append([pad_id] * before + row + [pad_id] * after)
        mask.append([0] * before + [1] * len(row) + [0] * after)
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


@pytest.mark.parametrize("make", [reward_chat, reward_lora], ids=["full", "lora"])
def test_the_saved_model_scores_the_same_in_any_batch(make: Any, tmp_path: Path) -> None:
    world = make(tmp_path)
    world.recipe["data"]["eval"] = {"fraction": 0.25}
    folder = run(world, ["training.logging_steps=2"])

    entries = [json.loads(line) for line in (folder / "ftrun" / "answers.jsonl").read_text().splitlines()]
    known = [entry[f"{side}_score"] for entry in entries for side in ("chosen", "rejected")]
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    if world.recipe["model"].get("lora"):
        base = AutoModelForSequenceClassification.from_pretrained(locate(), num_labels=1)
        base.config.pad_token_id = tokenizer.pad_token_id
        model = PeftModel.from_pretrained(base, folder / "model")
    else:
        model = AutoModelForSequenceClassification.from_pretrained(folder / "model")
        assert model.config.num_labels == 1 and model.config.pad_token_id == tokenizer.pad_token_id
    model.eval()

    held = climb_to(world, AtData).eval
    rows = [row.ids.tolist() for row in held]
    with torch.no_grad():
        for side in ("left", "right"):
            together = model(**pad(rows, side, tokenizer.pad_token_id)).logits[:, 0]
            torch.testing.assert_close(together, torch.tensor(known), rtol=0, atol=2e-5)
        alone = [model(**pad([row], "right", tokenizer.pad_token_id)).logits[0, 0].item() for row in rows]
    np.testing.assert_allclose(alone, known, rtol=0, atol=2e-5)
    np.testing.assert_allclose(
        score_rows(held, model, tokenizer.pad_token_id, batch_size=3), known, atol=2e-5
    )


def test_the_record_tells_accuracy_margin_and_the_score_of_each_side(tmp_path: Path) -> None:
    folder = run(reward_chat(tmp_path), ["training.logging_steps=2"])
    logged = [entry.metrics for entry in read_journal(folder / "metrics.jsonl")]
    sides = ("mean_chosen_reward", "mean_rejected_reward")
    for part in ("train", "eval"):
        whole = [entry for entry in logged if f"{part}/margin" in entry]
        assert whole
        for entry in whole:
            chosen, rejected = (entry[f"{part}/{side}"] for side in sides)
            assert chosen - rejected == pytest.approx(entry[f"{part}/margin"], abs=1e-6)
    entries = [json.loads(line) for line in (folder / "ftrun" / "answers.jsonl").read_text().splitlines()]
    assert len(entries) == 8
    assert entries[0]["prompt"].rstrip().endswith("assistant")
    assert "room" in entries[0]["chosen"] and entries[0]["chosen"] != entries[0]["rejected"]
    right = [entry["chosen_score"] > entry["rejected_score"] for entry in entries]
    assert logged[-1]["eval/accuracy"] == pytest.approx(sum(right) / 8)
    assert logged[-1]["eval/mean_chosen_reward"] == pytest.approx(
        np.mean([e["chosen_score"] for e in entries])
    )


def test_the_head_is_trained_and_saved_with_an_adapter(tmp_path: Path) -> None:
    at = climb_to(reward_lora(tmp_path), AtModel)
    heads = {name for name, p in at.model.named_parameters() if "score" in name and p.requires_grad}
    assert heads == {"base_model.model.score.modules_to_save.default.weight"}
    assert at.load_report == {"missing": (), "unexpected": (), "mismatched": ()}


def test_the_head_on_a_bfloat16_base_trains_in_float32(tmp_path: Path) -> None:
    world = reward_lora(tmp_path)
    world.recipe["model"]["dtype"] = "bfloat16"
    world.recipe["data"]["eval"] = {"fraction": 0.25}
    world.recipe["training"] |= {"bf16": True, "use_cpu": True, "max_steps": 2}
    at = climb_to(world, AtModel)
    at.trainer.train()
    assert {p.dtype for p in at.model.parameters() if p.requires_grad} == {torch.float32}
    assert at.model.get_input_embeddings().weight.dtype == torch.bfloat16
    metrics, table = ask(at)
    assert len(table) == 8 and metrics["eval/margin"] == pytest.approx(
        np.mean([pair["chosen_score"] - pair["rejected_score"] for pair in table]), abs=1e-6
    )


def test_a_reward_model_goes_on_from_its_own_head(tmp_path: Path) -> None:
    first = run(reward_full(tmp_path / "one"), ["training.max_steps=2"])
    saved = AutoModelForSequenceClassification.from_pretrained(first / "model")
    world = reward_full(tmp_path / "two")
    world.recipe["model"]["path"] = str(first / "model")
    at = climb_to(world, AtModel)
    assert torch.equal(at.model.score.weight, saved.score.weight)

    # A head under another name is no head: it would be drawn anew without a word.
    file = first / "model" / "model.safetensors"
    tensors = load_file(file)
    tensors["v_head.weight"] = tensors.pop("score.weight")
    save_file(tensors, file, metadata={"format": "pt"})
    assert climb_to(world, AtModel).load_report["missing"] == ("score.weight",)


def test_a_reward_adapter_goes_on_from_its_own_head(tmp_path: Path) -> None:
    first = run(reward_lora(tmp_path / "one"), ["training.max_steps=2"])
    (head,) = (
        one for name, one in load_file(first / "model" / WEIGHTS).items() if name.endswith("score.weight")
    )
    world = reward_lora(tmp_path / "two")
    world.recipe["model"]["path"] = str(first / "model")
    at = climb_to(world, AtModel)
    (ours,) = (p for name, p in at.model.named_parameters() if "score.modules_to_save" in name)
    assert torch.equal(ours, head) and not any(at.load_report.values())


def test_padding_is_not_the_end_of_the_text_where_another_token_serves(tmp_path: Path) -> None:
    at = climb_to(reward_full(tmp_path), AtData)
    tokenizer, config = at.tokenizer, at.model_config
    named = tokenizer.pad_token
    tokenizer.pad_token = tokenizer.eos_token
    settle_pad_token(tokenizer, config)
    assert tokenizer.pad_token == named

    # A reward model that was trained so is scored so.
    tokenizer.pad_token = tokenizer.eos_token
    config.architectures, config.pad_token_id = ["LlamaForSequenceClassification"], tokenizer.eos_token_id
    settle_pad_token(tokenizer, config)
    assert tokenizer.pad_token == tokenizer.eos_token
