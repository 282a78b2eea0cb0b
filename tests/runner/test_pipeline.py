"""Pipelines: checked whole before anything trains, stage after stage, each used again while it is unchanged."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mlflow import MlflowClient
from transformers import AutoModelForCausalLM

from ftrun.checks.catalogue import load_checks
from ftrun.checks.stages import AtData
from ftrun.checks.testing import World, sft_chat, sft_full
from ftrun.runner.pipeline import run_pipeline
from ftrun.runner.printing.text import make_console
from ftrun.runner.rehearsal import rehearse
from ftrun.runner.reuse import make_key, read_results, write_results
from ftrun.runner.tracking.pending import send_pending
from ftrun.runner.validate import validate_recipes
from ftrun.schemas.errors import RunError
from ftrun.schemas.pipeline import load_pipeline

SET = {"model.path": "stage:first", "training.learning_rate": 1.0e-4}


def write(world: World, second: dict[str, Any] | None = None, first: dict[str, Any] | None = None) -> Path:
    """A pipeline of two stages with the recipe of `world`, the first LoRA and the second whole."""
    world.recipe["training"] |= {
        "num_train_epochs": 1,
        "max_steps": 4,
        "save_strategy": "steps",
        "save_steps": 2,
    }
    world.write()
    lora = {"model.lora": {"r": 4, "target_modules": "all-linear"}, "training.learning_rate": 1.0e-3}
    pipeline = {
        "name": "twice",
        "output": str(world.folder / "runs"),
        "stages": {
            "first": {"recipe": "recipe.yaml", "set": {**lora, **(first or {})}},
            "second": {"recipe": "recipe.yaml", "set": {**SET, **(second or {})}},
        },
    }
    path = world.folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(pipeline, sort_keys=False), encoding="utf-8")
    return path


def run(path: Path, sets: Sequence[str] = (), **options: bool) -> int:
    console = make_console()
    return run_pipeline(path, sets=sets, ignore={}, out=console, err=console, **options)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(folder).named_parameters())


def tracked(runs: Path) -> dict[str, Any]:
    """The MLflow runs of `twice-1` by name, once the store has all of them: a slow machine is not waited for."""
    for folder in ("twice-1", "twice-1/first", "twice-1/second"):
        send_pending(runs / folder)
    client = MlflowClient(f"sqlite:///{runs / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("twice")
    return {one.info.run_name: one for one in client.search_runs([experiment.experiment_id])}


def test_a_pipeline_trains_records_and_is_used_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = sft_full(tmp_path)
    path = write(world)
    assert run(path) == 0
    runs = tmp_path / "runs"
    first, second = runs / "twice-1" / "first", runs / "twice-1" / "second"
    assert (runs / "twice-1" / "pipeline.yaml").read_text() == path.read_text()
    resolved = yaml.safe_load((second / "recipe.resolved.yaml").read_text())
    assert resolved["model"]["path"] == str(first / "model")

    found = tracked(runs)
    assert set(found) == {"twice-1", "twice-1-first", "twice-1-second"}
    assert {one.info.status for one in found.values()} == {"FINISHED"}
    parent, child = found["twice-1"], found["twice-1-second"]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["ftrun.pipeline"] == "twice-1" and child.data.tags["ftrun.stage"] == "second"
    lineage = child.data.tags["ftrun.input.model.path"]
    assert lineage == parent.data.tags["ftrun.stage.first"]
    # The id is there unless the store was slower than the whole stage.
    name, *id, digest = lineage.split()
    assert name == "twice-1-first" and id in ([], [found[name].info.run_id])
    assert digest == read_results(runs / "twice-1")["first"].digest

    capsys.readouterr()
    assert run(path) == 0
    told = capsys.readouterr().out
    assert "first: unchanged since twice-1, taken from there\nsecond: unchanged" in told
    assert not (runs / "twice-2").exists()

    assert run(path, ["second.training.learning_rate=2e-4", "second.tracking.tags.team=support"]) == 0
    told = capsys.readouterr().out
    assert "first: unchanged since twice-1" in told and "second: unchanged" not in told
    assert (runs / "twice-2" / "second" / "model").is_dir() and not (runs / "twice-2" / "first").exists()
    assert read_results(runs / "twice-2")["first"].folder == first


def test_a_pipeline_that_died_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(sft_full(tmp_path))
    with pytest.raises(RunError, match="no run of twice"):
        run(path, resume=True)
    assert run(path) == 0
    folder = tmp_path / "runs" / "twice-1"
    ends = weights(folder / "second" / "model")
    # As if it had been killed after the second stage's first checkpoint.
    shutil.rmtree(folder / "second" / "model")
    (folder / "second" / "checkpoints" / "checkpoint-4" / "trainer_state.json").unlink()
    state = json.loads((folder / "pipeline.json").read_text())
    state["stages"]["second"]["digest"] = ""
    (folder / "pipeline.json").write_text(json.dumps(state))

    capsys.readouterr()
    assert run(path, resume=True) == 0
    told = capsys.readouterr().out
    assert "first: unchanged since twice-1" in told and "going on from checkpoint-2" in told
    again = weights(folder / "second" / "model")
    assert all(torch.equal(again[name], ends[name]) for name in ends)
    assert sorted(one.name for one in folder.iterdir() if one.is_dir()) == ["first", "second"]

    # What was begun with other data is not gone on with.
    results = read_results(folder)
    write_results(folder, results | {"second": type(results["second"])("another", folder / "second")})
    assert run(path, resume=True) == 0
    assert (
        "second: starts anew, since its recipe, data, models or packages changed" in capsys.readouterr().out
    )
    assert (folder / "second-2" / "model").is_dir()


def test_a_stage_that_breaks_leaves_the_earlier_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = sft_chat(tmp_path)
    # transformers asks for this metric only when it has evaluated for the first time.
    breaks = {
        "training.eval_strategy": "steps",
        "training.eval_steps": 2,
        "training.load_best_model_at_end": True,
        "training.metric_for_best_model": "eval_nonsense",
        "preflight.ignore": {"TRAIN036": "to break while training"},
    }
    with pytest.raises(RunError, match="eval_nonsense"):
        run(write(world, breaks))
    found = {name: one.info.status for name, one in tracked(tmp_path / "runs").items()}
    assert found == {"twice-1": "FAILED", "twice-1-first": "FINISHED", "twice-1-second": "FAILED"}
    capsys.readouterr()
    assert run(write(world)) == 0
    assert "first: unchanged since twice-1" in capsys.readouterr().out


def test_a_mistake_in_the_last_stage_costs_no_training(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    (tmp_path / "empty.jsonl").write_text("")
    assert run(write(world, {"data.train": [{"path": "empty.jsonl"}]})) == 3
    assert run(write(world, {"training.lerning_rate": 1})) == 2
    assert run(write(world, {"model.path": "stage:third"})) == 2
    assert not (tmp_path / "runs").exists()


def test_the_tokenizer_of_an_earlier_stage_stands_in(tmp_path: Path) -> None:
    world = sft_chat(tmp_path)
    (tmp_path / "ours.jinja").write_text("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}")
    path = write(world, first={"model.chat_template": "ours.jinja"})
    climbs = rehearse(
        load_pipeline(path), checks=load_checks("data")[:0], scratch=tmp_path / "scratch", upto=AtData
    )
    first, second = (ascent.at for ascent in climbs)
    assert isinstance(first, AtData) and isinstance(second, AtData)
    assert second.tokenizer.chat_template == first.tokenizer.chat_template
    assert second.train[0].ids.tolist() == first.train[0].ids.tolist()
    assert second.stop_ids == first.stop_ids
    assert second.recipe.model.lora is None and first.recipe.model.lora is not None


def test_a_stage_that_cannot_be_prepared_keeps_the_next_waiting(tmp_path: Path) -> None:
    path = write(sft_full(tmp_path), first={"model.path": "./gone"})
    climbs = rehearse(load_pipeline(path), checks=load_checks("data"), scratch=tmp_path / "s", upto=AtData)
    first, second = (ascent.report for ascent in climbs)
    assert not first.ok and second.stage == "environment"
    reasons = {one.reason for one in second.results if one.verdict == "skipped"}
    assert "since the stage first, whose model it takes, cannot be prepared" in reasons


def test_the_report_names_the_stages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(sft_full(tmp_path), {"training.learning_rate": 1.0})
    code = validate_recipes([path], sets=(), ignore={}, format="json")
    first, second = json.loads(capsys.readouterr().out)
    assert (first["pipeline"], first["pipeline_stage"]) == (str(path), "first")
    assert second["pipeline_stage"] == "second" and second["recipe"] == str(tmp_path / "recipe.yaml")
    (finding,) = (one for one in second["findings"] if one["id"] == "TRAIN001")
    assert finding["where"]["file"] == str(path) and finding["where"]["line"] is not None
    assert code == (0 if second["ok"] else 3)


def test_a_fix_of_what_the_pipeline_sets_is_left_to_the_pipeline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = sft_full(tmp_path)
    world.recipe["training"]["max_grad_norm"] = 0
    path = write(world, {"training.max_grad_norm": 0})
    validate_recipes([path], sets=(), ignore={}, format="text", fix=True)
    told = capsys.readouterr().out
    assert "fixed" in told and f"it is set in {path}" in told
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text())["training"]["max_grad_norm"] == 1


def test_what_changes_a_result_changes_the_key(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    path = write(world)

    def key(*sets: str) -> str:
        return make_key(load_pipeline(path, sets).stages[0], {}, "sqlite:///none.db")

    before = key()
    assert key("first.tracking.tags.team=a") == key("output=elsewhere") == before
    assert key("first.training.seed=8") != before
    rows = (tmp_path / "train.jsonl").read_bytes()
    (tmp_path / "train.jsonl").write_bytes(rows + rows.splitlines(keepends=True)[0])
    assert key() != before
    (tmp_path / "train.jsonl").write_bytes(rows)
    assert key() == before


def test_fresh_is_for_pipelines(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    command = [sys.executable, "-m", "ftrun", str(world.write()), "--fresh"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "--fresh is for pipelines" in done.stderr
