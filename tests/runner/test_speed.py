"""What is chosen where a recipe leaves it open: less is computed, and the same is learnt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from ftrun.checks.data.data_cannot_be_prepared import data_cannot_be_prepared
from ftrun.checks.machine import Device
from ftrun.checks.model.model_does_not_load import model_does_not_load
from ftrun.checks.stages import AtData, AtModel, Choice
from ftrun.checks.testing import World, dpo_full, reward_full, sft_full, sft_packed
from ftrun.runner.commands import app
from ftrun.runner.preflight import ascend
from ftrun.runner.record.folder import DIGEST_FILE
from ftrun.runner.record.lock import read_choices
from ftrun.runner.tuning.batches import SORTED, count_places, divide
from ftrun.runner.tuning.choices import tune
from ftrun.runner.tuning.rules import ACCUMULATION, BATCH
from ftrun.schemas.load import load_recipe
from ftrun.schemas.resolve import digest, resolve

GIB = 2**30
WRITTEN = {"gradient_accumulation_steps": 1, "train_sampling_strategy": "random"}


def mixed(world: World) -> World:
    """The world with 58 answers of one to thirty words, in disorder."""
    rows = []
    for number in range(58):
        count = number * 7 % 30 + 1
        words = " ".join(map(str, range(1, count + 1)))
        rows.append(
            {"prompt": f"Count to {count}, {number}.\n", "chosen": words, "rejected": f"{words} {words}"}
        )
    if world.recipe["method"] == "sft":
        rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
    world.rows = rows
    return world


def gpu(memory: int) -> Device:
    return Device("a GPU", memory, memory, bf16=True, fp16=True)


def build(world: World, training: Mapping[str, Any], stage: type[AtData] = AtModel) -> Any:
    world.recipe["training"] |= {"logging_steps": 1, "save_strategy": "no", "max_steps": 6, **training}
    tellers = (data_cannot_be_prepared, model_does_not_load)
    ascent = ascend(world.write(), checks=tellers, folder=lambda file: world.folder / "run", needed=stage)
    assert isinstance(ascent.at, stage), ascent.report.findings
    return ascent.at


def losses(at: AtModel) -> list[float]:
    at.trainer.train()
    return [one["loss"] for one in at.trainer.state.log_history if "loss" in one]


def chosen(at: AtData) -> dict[str, Any]:
    return {one.key: one.value for one in at.choices}


def updates(at: AtModel) -> list[list[tuple[int, ...]]]:
    """The rows of each update of an epoch, as they are drawn, and as often as they are."""
    rows = [
        tuple(row[mask.bool()].tolist())
        for batch in at.trainer.get_train_dataloader()
        for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    size = at.trainer.args.train_batch_size * at.trainer.args.gradient_accumulation_steps
    return [sorted(rows[start : start + size]) for start in range(0, len(rows), size)]


def test_an_update_in_small_sorted_micro_batches_learns_the_same(tmp_path: Path) -> None:
    batch = {"per_device_train_batch_size": 16, "learning_rate": 1e-3}
    ours = build(mixed(sft_full(tmp_path / "ours")), batch)
    theirs = build(mixed(sft_full(tmp_path / "theirs")), batch | WRITTEN)
    settings = ours.trainer.args
    assert settings.train_batch_size * settings.gradient_accumulation_steps == 16
    assert settings.train_batch_size < 16
    assert theirs.trainer.args.train_batch_size == 16
    assert ours.steps == theirs.steps
    assert updates(ours) == updates(theirs)
    assert losses(ours) == pytest.approx(losses(theirs), rel=1e-5)
    for one, other in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-4)  # a fifth of the first step's rate


def test_less_is_computed(tmp_path: Path) -> None:
    def places(at: AtModel) -> int:
        return sum(batch["input_ids"].numel() for batch in at.trainer.get_train_dataloader())

    batch = {"per_device_train_batch_size": 16}
    ours = places(build(mixed(sft_full(tmp_path / "ours")), batch))
    theirs = places(build(mixed(sft_full(tmp_path / "theirs")), batch | WRITTEN))
    assert ours < 0.8 * theirs


@pytest.mark.parametrize("make", [reward_full, dpo_full])
def test_pairs_are_sorted_within_updates_that_are_whole(tmp_path: Path, make: Any) -> None:
    batch = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "max_length": 512}
    ours = build(mixed(make(tmp_path / "ours")), batch)
    theirs = build(mixed(make(tmp_path / "theirs")), batch | {"train_sampling_strategy": "random"})
    assert chosen(ours) == {SORTED: "sorted by length"}
    assert losses(ours) == pytest.approx(losses(theirs), rel=1e-4)


def test_what_is_written_stays(tmp_path: Path) -> None:
    batch = {"per_device_train_batch_size": 16, "gradient_checkpointing": True}
    at = build(mixed(sft_full(tmp_path)), batch | WRITTEN)
    assert chosen(at) == {}
    assert at.trainer.args.gradient_checkpointing
    assert at.trainer.args.gradient_accumulation_steps == 1


@pytest.mark.parametrize(
    ("make", "written"),
    [
        (sft_packed, {}),
        (dpo_full, {"loss_type": ["aot"]}),
        (dpo_full, {"loss_type": ["sigmoid", "sft"]}),
    ],
)
def test_rows_that_weigh_by_their_neighbours_stay_where_they_are(
    tmp_path: Path, make: Any, written: dict[str, Any]
) -> None:
    batch = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "max_length": 512}
    assert chosen(build(mixed(make(tmp_path)), batch | written, AtData)) == {}


def test_checkpointing_is_off_on_a_cpu_unless_it_is_written(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    del world.recipe["training"]["gradient_checkpointing"]
    at = build(world, {})
    assert at.trainer.args.gradient_checkpointing is False
    assert chosen(at) == {"training.gradient_checkpointing": False}
    assert losses(at) == losses(build(sft_full(tmp_path / "on"), {"gradient_checkpointing": True}))


def test_a_run_goes_on_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    batch = {"per_device_train_batch_size": 16, "save_strategy": "steps", "save_steps": 2}
    whole = build(mixed(sft_full(tmp_path / "whole")), batch)
    told = losses(whole)
    again = build(mixed(sft_full(tmp_path / "again")), batch)
    again.trainer.train(
        resume_from_checkpoint=str(tmp_path / "whole" / "run" / "checkpoints" / "checkpoint-2")
    )
    assert told == [one["loss"] for one in again.trainer.state.log_history if "loss" in one]


def test_a_gpu_checkpoints_where_its_memory_needs_it(tmp_path: Path) -> None:
    world = mixed(sft_full(tmp_path))
    del world.recipe["training"]["gradient_checkpointing"]
    at = build(world, {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 1}, AtData)
    roomy = tune(replace(at, machine=replace(at.machine, devices=(gpu(24 * GIB),))))
    tight = tune(replace(at, machine=replace(at.machine, devices=(gpu(int(0.86 * GIB)),))))
    assert chosen(roomy)["training.gradient_checkpointing"] is False
    assert chosen(tight)["training.gradient_checkpointing"] is True
    assert chosen(roomy)["training.tf32"] is True
    assert "fits into a GPU" in next(one.reason for one in roomy.choices if "checkpointing" in one.key)


def test_recorded_choices_are_repeated(tmp_path: Path) -> None:
    at = build(mixed(sft_full(tmp_path)), {"per_device_train_batch_size": 16}, AtData)
    recorded = [asdict(Choice(BATCH, 8, "then")), asdict(Choice(ACCUMULATION, 2, "then"))]
    again = tune(at, recorded)
    assert (again.recipe.training["per_device_train_batch_size"], len(again.choices)) == (8, 2)
    assert tune(at, []).recipe.training["per_device_train_batch_size"] == 16
    elsewhere = tune(at, [asdict(Choice("training.tf32", True, "of a GPU"))])
    assert elsewhere.choices == ()


def test_the_record_has_the_choices_and_the_digest_has_not(tmp_path: Path) -> None:
    world = mixed(sft_full(tmp_path))
    world.recipe["training"] |= {"per_device_train_batch_size": 16, "max_steps": 2}
    path = world.write()
    assert CliRunner().invoke(app, [str(path)]).exit_code == 0
    (folder,) = (tmp_path / "runs").glob("healthy-*")
    kept = {one["key"]: one["value"] for one in read_choices(folder)}
    assert kept[BATCH] * kept[ACCUMULATION] == 16
    named = digest(resolve(load_recipe(path).recipe))
    assert (folder / DIGEST_FILE).read_text().strip() == named


def test_a_plan_gives_the_reasons(tmp_path: Path) -> None:
    world = mixed(sft_full(tmp_path))
    world.recipe["training"]["per_device_train_batch_size"] = 16
    found = CliRunner().invoke(app, ["plan", str(world.write()), "--format", "json"])
    settings = [(one["key"], one["value"], one["origin"]) for one in json.loads(found.stdout)["settings"]]
    written, now = [one for one in settings if one[0] == BATCH]
    assert written[1] == 16
    assert written[2].startswith("recipe.yaml:")
    assert now[1] < 16
    assert now[2].startswith("chosen: ")


def test_the_cheapest_division() -> None:
    lengths = np.array([10, 1000] * 8)
    small = divide(lengths, (8, 2, 1), may_divide=True, largest=None, on_gpu=False)
    assert (small.rows, small.accumulation) == (8, 2)
    assert divide(lengths, (16, 1, 1), may_divide=True, largest=None, on_gpu=False).rows == 8
    assert divide(lengths, (16, 1, 1), may_divide=False, largest=None, on_gpu=False).rows == 16
    assert divide(lengths, (16, 1, 1), may_divide=True, largest=3, on_gpu=True).rows == 2
    assert divide(np.full(16, 7), (16, 1, 1), may_divide=True, largest=None, on_gpu=False).rows == 16
    assert count_places(np.array([5, 1, 4, 2, 3]), 4, 2) == 5 * 2 + 2 * 2 + 3


@pytest.mark.gpu
def test_on_a_gpu_the_choices_train(tmp_path: Path) -> None:
    world = mixed(sft_full(tmp_path))
    del world.recipe["training"]["gradient_checkpointing"]
    at = build(world, {"per_device_train_batch_size": 16})
    assert chosen(at)["training.gradient_checkpointing"] is False
    assert torch.backends.cuda.matmul.allow_tf32
    assert all(np.isfinite(losses(at)))
