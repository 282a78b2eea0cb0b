"""A plan says what the run then does: its settings and their origins, batches, steps, schedule and checkpoints."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback
from typer.testing import CliRunner

from ftrun.checks.stages import AtData, AtModel
from ftrun.checks.testing import World, sft_full, sft_lora, sft_packed
from ftrun.runner.commands import app
from ftrun.runner.plan.curve import draw_curve
from ftrun.runner.plan.memory import Room, find_largest, read_size
from ftrun.runner.plan.rows import measure_batches
from ftrun.runner.plan.weightless import build_weightless
from ftrun.runner.preflight import ascend

RECIPES = Path(__file__).parents[2] / "recipes"


def plan(*words: str | Path) -> dict[str, Any]:
    """The plan of a recipe as JSON."""
    result = CliRunner().invoke(app, ["plan", *map(str, words), "--format", "json"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def write(world: World, training: Mapping[str, Any]) -> Path:
    world.recipe["training"] |= training
    return world.write()


def test_every_setting_says_where_it_is_from(tmp_path: Path) -> None:
    base = sft_full(tmp_path).write()
    child = base.with_name("child.yaml")
    child.write_text(f"extends: {base.name}\nname: child\ntraining:\n  learning_rate: 1.0e-3\n")
    found = plan(child, "--set", "training.max_steps=4")
    origins = {one["key"]: one["origin"] for one in found["settings"]}
    lines = base.read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if "per_device_train_batch_size" in text)
    assert origins["training.learning_rate"] == "child.yaml:4"
    assert origins["training.per_device_train_batch_size"] == f"extends {base.name}:{line}"
    assert origins["training.max_steps"] == "--set"
    assert origins["training.weight_decay"] == "default of TRL"
    assert origins["effective batch"].startswith("derived: ")
    values = {one["key"]: one["value"] for one in found["settings"]}
    assert values["training.learning_rate"] == 1e-3
    assert values["training.max_steps"] == 4


class Log(TrainerCallback):  # type: ignore[misc, unused-ignore]  # transformers is untyped here
    """Notes what happens, and at which rate each step is taken."""

    def __init__(self) -> None:
        self.evaluations: list[int] = []
        self.saves: list[int] = []
        self.rates: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.rates.append(kwargs["optimizer"].param_groups[0]["lr"])

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.evaluations.append(state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.saves.append(state.global_step)


@pytest.mark.parametrize(
    "training",
    [
        {
            "eval_strategy": "steps",
            "eval_steps": 2,
            "save_strategy": "steps",
            "save_steps": 0.4,
            "warmup_steps": 0.3,
        },
        {
            "eval_strategy": "epoch",
            "save_strategy": "epoch",
            "eval_delay": 1.5,
            "lr_scheduler_type": "cosine",
        },
        {"eval_strategy": "no", "save_strategy": "steps", "save_steps": 500, "max_steps": 5},
    ],
)
def test_a_run_does_what_was_planned_when_it_was_planned(tmp_path: Path, training: Mapping[str, Any]) -> None:
    world = sft_full(tmp_path)
    world.recipe["data"]["eval"] = {"fraction": 0.25}
    settings = {"num_train_epochs": 3, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2}
    path = write(world, {**settings, **training})
    found = plan(path)
    ascent = ascend(path, checks=[], folder=lambda _: tmp_path / "run", upto=AtModel, needed=AtModel)
    assert isinstance(ascent.at, AtModel)
    log, trainer = Log(), ascent.at.trainer
    trainer.add_callback(log)
    trainer.train()
    calendar, schedule = found["calendar"], found["schedule"]
    assert calendar["steps"] == trainer.state.global_step
    assert calendar["evaluations"] == log.evaluations
    assert calendar["saves"] == log.saves
    assert [schedule["peak"] * one for one in schedule["factors"]] == pytest.approx(log.rates)


@pytest.mark.parametrize("make", [sft_full, sft_packed])
def test_padding_is_that_of_the_batches_that_train(tmp_path: Path, make: Any) -> None:
    path = make(tmp_path).write()
    ascent = ascend(path, checks=[], folder=lambda _: tmp_path / "run", upto=AtModel, needed=AtModel)
    assert isinstance(ascent.at, AtModel)
    batches = list(ascent.at.trainer.get_train_dataloader())
    places = sum(batch["input_ids"].numel() for batch in batches)
    tokens = sum(int(batch.get("attention_mask", batch["input_ids"] * 0 + 1).sum()) for batch in batches)
    found = plan(path)["batches"]
    assert (found["number"], found["tokens"], found["padding"]) == (len(batches), tokens, places - tokens)


@pytest.mark.parametrize("make", [sft_full, sft_lora])
def test_what_is_built_without_weights_is_what_is_built_with_them(tmp_path: Path, make: Any) -> None:
    path = make(tmp_path).write()
    real = ascend(path, checks=[], folder=lambda _: tmp_path / "run", upto=AtModel, needed=AtModel).at
    data = ascend(path, checks=[], upto=AtData, needed=AtData).at
    assert isinstance(real, AtModel) and isinstance(data, AtData)
    fake = build_weightless(data, tmp_path / "fake").at

    def describe(at: AtModel) -> list[tuple[str, tuple[int, ...], Any, bool]]:
        return [(name, tuple(p.shape), p.dtype, p.requires_grad) for name, p in at.model.named_parameters()]

    assert describe(fake) == describe(real)
    assert type(fake.trainer.optimizer) is type(real.trainer.optimizer)
    assert measure_batches(fake.trainer) == measure_batches(real.trainer)


def test_every_stage_of_a_pipeline_has_its_plan() -> None:
    result = CliRunner().invoke(app, ["plan", str(RECIPES / "rlhf.yaml"), "--format", "json"])
    stages = {one["pipeline_stage"]: one for one in json.loads(result.stdout)}
    assert list(stages) == ["sft", "reward", "ppo"]
    path = next(one for one in stages["ppo"]["settings"] if one["key"] == "model.path")
    assert path["value"] == "stage:sft"
    assert path["origin"].startswith("set in rlhf.yaml:")
    assert list(stages["ppo"]["memory"]["models"]) == ["policy", "value", "reference", "reward model 1"]
    assert all(one["memory"]["peak"] > 0 for one in stages.values())


def test_a_model_that_is_not_there_leaves_the_rest_of_the_plan(tmp_path: Path) -> None:
    found = plan(sft_full(tmp_path).write(), "--set", "model.path=nobody/nothing-8b")
    assert found["memory"] is None and found["calendar"] is None
    assert "nobody/nothing-8b" in found["gaps"][0]["why"]
    assert {one["key"] for one in found["settings"]} >= {"model.path", "training.learning_rate"}


def test_without_torch_memory_is_told_by_the_closed_form() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv = ['ftrun', 'plan', sys.argv[1], '--format', 'json']\n"
        "from ftrun.runner.cli import main; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(RECIPES / "sft.yaml")], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["memory"]["how"] == "closed form"
    assert found["parameters"]["total"] == 688_768
    assert "torch" in found["gaps"][0]["why"]


def test_a_file_that_is_no_recipe_has_no_plan(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("name: bad\nmethod: sft\n")
    result = CliRunner().invoke(app, ["plan", str(path)])
    assert result.exit_code == 2
    assert "model" in result.stdout


def test_the_curve_is_as_high_as_the_rate() -> None:
    rising = [step / 10 for step in range(11)]
    assert draw_curve(rising, unicode=True, width=11) == " ▁▂▂▃▄▅▆▆▇█"
    assert draw_curve(rising, unicode=False, width=11).isascii()
    assert draw_curve([0.0] * 4 + [1.0] * 4, unicode=True, width=2) == " █"
    assert draw_curve([1e-6, float("nan")], unicode=True) == "▁ "


@pytest.mark.parametrize(("text", "size"), [("24GiB", 24 * 2**30), ("80 GB", 80 * 10**9), ("1.5", 3 * 2**29)])
def test_sizes_of_memory_are_read(text: str, size: int) -> None:
    assert read_size(text) == size


def test_a_size_that_is_none_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["plan", str(sft_full(tmp_path).write()), "--memory", "much"])
    assert result.exit_code == 2


@pytest.mark.parametrize(("gib", "rows"), [(100, 24), (20, 12), (8, 4), (5, 1), (2, None)])
def test_the_largest_micro_batch_fits_and_keeps_the_effective_batch(gib: int, rows: int | None) -> None:
    room = Room("a GPU", gib * 2**30, cuda=True)
    fit = find_largest(lambda size, steps: 2 * 2**30 + size * 2**30 + (steps > 1) * 2**29, 8, 3, room)
    assert (fit and fit.rows) == rows
    assert fit is None or (fit.rows * fit.accumulation == 24 and fit.peak <= room.usable)
