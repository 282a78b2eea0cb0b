"""Learning one batch by heart: undone bit for bit, made where it is cheap, silent on healthy runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from ftrun.checks.experiments import Experiments
from ftrun.checks.stages import AtModel
from ftrun.checks.step.answers_ignore_prompts import answers_ignore_prompts
from ftrun.checks.step.batch_cannot_be_learnt import batch_cannot_be_learnt
from ftrun.checks.testing import (
    HEALTHY,
    World,
    dpo_full,
    dpo_lora,
    ppo_full,
    reward_chat,
    reward_full,
    sft_full,
    sft_lora,
    sft_packed,
)
from ftrun.runner.exchange import answer_floor, exchange_prompts
from ftrun.runner.learning import STEPS
from ftrun.runner.preflight import ascend, climb
from ftrun.runner.step import take_step
from ftrun.runner.trial import NotMade

Make = Callable[[Path], World]
CHECKS = (batch_cannot_be_learnt, answers_ignore_prompts)


def build(make: Make, folder: Path, wanted: object, training: Mapping[str, Any] | None = None) -> AtModel:
    world = make(folder)
    world.recipe["preflight"] = {"experiments": wanted}
    world.recipe["training"] |= training or {}
    at = ascend(world.write(), checks=(), folder=lambda file: folder / "run", needed=AtModel).at
    assert isinstance(at, AtModel)
    return at


def experiment(make: Make, folder: Path, wanted: object = True, **training: Any) -> Experiments:
    return take_step(build(make, folder, wanted, training)).experiments


def train(at: AtModel) -> tuple[list[Any], dict[str, bytes]]:
    at.trainer.train()
    losses = [(entry.get("loss"), entry.get("grad_norm")) for entry in at.trainer.state.log_history]
    return losses, {name: value.numpy().tobytes() for name, value in at.model.state_dict().items()}


@pytest.mark.parametrize(
    ("make", "training"),
    [
        pytest.param(sft_full, {"neftune_noise_alpha": 5.0, "weight_decay": 0.1}, id="sft-full"),
        pytest.param(sft_lora, {"gradient_accumulation_steps": 2}, id="sft-lora"),
        pytest.param(dpo_lora, {}, id="dpo-lora"),
        pytest.param(reward_full, {"optim": "adafactor"}, id="reward-full"),
    ],
)
def test_training_is_the_same_after_learning(make: Make, training: Mapping[str, Any], tmp_path: Path) -> None:
    def lively(folder: Path) -> World:
        world = make(folder)
        if "lora" in world.recipe["model"]:
            world.recipe["model"]["lora"]["lora_dropout"] = 0.2
        return world

    settings = {"logging_steps": 1, "save_strategy": "no", "max_steps": 5, "disable_dropout": False}
    if make in (sft_full, sft_lora):
        del settings["disable_dropout"]
    if make is reward_full:
        settings["disable_dropout"] = True
    without = train(build(lively, tmp_path / "without", False, {**settings, **training}))
    at = build(lively, tmp_path / "with", True, {**settings, **training})
    learnt = take_step(at).experiments.learnt
    assert learnt is not None and learnt.evaluated[1] < learnt.evaluated[0]
    assert train(at) == without


@pytest.mark.parametrize("make", [one for method in ("sft", "dpo", "reward") for one in HEALTHY[method]])
def test_healthy_runs_learn_a_batch_at_a_tenth_of_their_rate(make: Make, tmp_path: Path) -> None:
    world = make(tmp_path)
    world.recipe["preflight"] = {"experiments": True}
    world.recipe["training"]["learning_rate"] /= 10
    report = climb(world.write(), checks=CHECKS)
    assert not [finding.message for finding in report.findings]
    kept = make is sft_packed
    assert [one.verdict for one in report.results] == ["passed", "not_applicable" if kept else "passed"]


def test_pairs_are_told_by_their_accuracy(tmp_path: Path) -> None:
    learnt = experiment(reward_chat, tmp_path).learnt
    assert learnt is not None and learnt.accuracy == (0.5, 1.0)
    assert len(learnt.losses) == STEPS


def test_learning_is_made_where_it_is_cheap(tmp_path: Path) -> None:
    few, enough = STEPS * 1000 - 1, STEPS * 1000
    found = experiment(sft_full, tmp_path / "few", "auto", max_steps=few)
    assert found.learnt is None and "0.1% of the run's 24999" in found.skipped["learnt"]
    assert experiment(sft_full, tmp_path / "enough", "auto", max_steps=enough).learnt is not None
    halved = {"max_steps": enough // 2, "gradient_accumulation_steps": 2}
    assert experiment(sft_full, tmp_path / "accumulated", "auto", **halved).learnt is not None
    off = experiment(sft_full, tmp_path / "off", False, max_steps=enough)
    assert off.learnt is None and off.skipped["learnt"] == "preflight.experiments is false"
    assert "not for method ppo" in experiment(ppo_full, tmp_path / "ppo").skipped["learnt"]


@pytest.mark.parametrize(
    ("make", "column"), [(dpo_full, "completion_mask"), (reward_full, None)], ids=["dpo", "reward"]
)
def test_a_hidden_prompt_of_pairs_is_told(make: Make, column: str | None, tmp_path: Path) -> None:
    def damage(at: AtModel) -> AtModel:
        collate = at.trainer.data_collator

        def hide(rows: Any) -> Any:
            batch = collate(rows)
            if column is not None:
                batch["attention_mask"] *= batch[column]
            else:
                half = len(batch["input_ids"]) // 2
                differs = (batch["input_ids"][:half] != batch["input_ids"][half:]).cumsum(1).clamp(max=1)
                batch["attention_mask"] *= torch.cat([differs, differs])
            return batch

        at.trainer.data_collator = hide
        return at

    world = make(tmp_path)
    world.recipe["preflight"] = {"experiments": True}
    world.after(AtModel, damage)
    report = climb(world.write(), checks=(answers_ignore_prompts,), after=world.apply)
    assert [finding.severity for finding in report.findings] == ["error"]


def test_a_pair_is_not_learnt_at_no_rate(tmp_path: Path) -> None:
    world = dpo_full(tmp_path)
    world.recipe["preflight"] = {"experiments": True}
    world.recipe["training"]["learning_rate"] = 1e-12
    (finding,) = climb(world.write(), checks=(batch_cannot_be_learnt,)).findings
    assert "from 0.6931 to 0.6931: the weights moved by" in finding.message


def tensors(rows: list[list[int]]) -> torch.Tensor:
    return torch.tensor(rows)


def test_prompts_are_exchanged() -> None:
    batch = {
        "input_ids": tensors([[1, 2, 3, 9, 8], [4, 5, 7, 6, 0], [4, 9, 9, 9, 9]]),
        "labels": tensors([[-100, -100, -100, 9, 8], [-100, -100, 7, 6, -100], [-100, 9, 9, 9, 9]]),
        "attention_mask": tensors([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]),
    }
    other = exchange_prompts("sft", batch)
    # A prompt that is too long for its new row loses its beginning.
    assert other["input_ids"].tolist() == [[4, 5, 9, 8, 0], [4, 7, 6, 0, 0], [3, 9, 9, 9, 9]]
    assert other["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert (other["labels"] != -100).sum() == (batch["labels"] != -100).sum()


def test_both_sides_of_a_pair_have_the_same_other_prompt() -> None:
    batch = {
        "input_ids": tensors([[1, 2, 9, 0], [3, 4, 8, 8], [1, 2, 7, 7], [3, 4, 6, 0]]),
        "attention_mask": tensors([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0]]),
    }
    assert exchange_prompts("reward", batch)["input_ids"].tolist() == [
        [3, 4, 9, 0],
        [1, 2, 8, 8],
        [3, 4, 7, 7],
        [1, 2, 6, 0],
    ]


@pytest.mark.parametrize(
    ("ids", "labels", "reason"),
    [
        ([[1, 2]], [[-100, 2]], "one row"),
        ([[1, 2], [1, 3]], [[-100, 2], [-100, 3]], "all prompts"),
        ([[1, 2], [3, 2]], [[-100, 2], [-100, 2]], "all answers"),
        ([[1, 2], [3, 4]], [[1, 2], [3, 4]], "no prompt"),
        ([[1, 2], [3, 4]], [[-100, -100], [-100, 4]], "no prompt"),
    ],
)
def test_prompts_that_cannot_be_exchanged(ids: list[list[int]], labels: list[list[int]], reason: str) -> None:
    with pytest.raises(NotMade, match=reason):
        exchange_prompts("sft", {"input_ids": tensors(ids), "labels": tensors(labels)})


def test_contradictions_have_a_floor() -> None:
    ids = tensors([[1, 2, 5], [1, 3, 5], [1, 2, 5], [7, 3, 5]])
    labels = ids.clone()
    labels[:, 0] = -100
    # Of eight labels three follow the same token: twice 2 and once 3.
    expected = (2 * torch.tensor(1.5).log() + torch.tensor(3.0).log()) / 8
    assert answer_floor({"input_ids": ids, "labels": labels}) == pytest.approx(float(expected))


def test_a_batch_that_is_known_is_not_judged(tmp_path: Path) -> None:
    def damage(at: AtModel) -> AtModel:
        compute = at.trainer.compute_loss
        at.trainer.compute_loss = lambda *args, **kwargs: compute(*args, **kwargs) * 1e-3
        return at

    world = sft_full(tmp_path)
    world.recipe["preflight"] = {"experiments": True}
    world.after(AtModel, damage)
    (result,) = climb(world.write(), checks=(batch_cannot_be_learnt,), after=world.apply).results
    assert result.verdict == "not_applicable" and "known already" in (result.reason or "")
