"""Whole runs: what they leave behind, in the folder and in MLflow, when they end well and when they do not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from ftrun.checks.testing import World, sft_chat, sft_full, sft_lora, sft_packed
from ftrun.runner.answers import answer_rows
from ftrun.runner.preflight import ascend
from ftrun.runner.printing.text import make_console
from ftrun.runner.run import run_recipe
from ftrun.runner.tracking.journal import read_journal
from ftrun.schemas.errors import RunError


def run(world: World, sets: Sequence[str] = (), *, resume: bool = False) -> int:
    console = make_console()
    return run_recipe(world.write(), sets=sets, ignore={}, out=console, err=console, resume=resume)


def tracked(world: World) -> Any:
    """The one MLflow run of this world, with a client for its store."""
    client = MlflowClient(f"sqlite:///{world.folder / 'runs' / 'mlflow.db'}")
    experiments = [one.experiment_id for one in client.search_experiments()]
    (found,) = client.search_runs(experiments)
    return client, found


def test_a_run_leaves_a_model_and_its_whole_record(tmp_path: Path) -> None:
    world = sft_chat(tmp_path)
    world.recipe["training"] |= {"logging_steps": 2, "num_train_epochs": 2}
    world.recipe["evaluation"] = {"exact_match": 4, "max_new_tokens": 8}
    world.recipe["tracking"] = {"tags": {"team": "support"}}
    assert run(world) == 0

    folder = tmp_path / "runs" / "healthy-1"
    model = folder / "model"
    assert not list(folder.rglob("*.bin")) or all(
        file.name != "training_args.bin" for file in model.iterdir()
    )
    assert {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"} <= {
        file.name for file in model.iterdir()
    }
    reloaded = AutoModelForCausalLM.from_pretrained(model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False)
    assert torch.isfinite(reloaded(**tokenizer(text, return_tensors="pt")).logits).all()

    client, found = tracked(world)
    assert found.info.status == "FINISHED" and found.info.run_name == "healthy-1"
    assert found.data.params["training.learning_rate"] == "5e-05"
    assert found.data.params["training.adam_beta2"] == "0.999"
    assert found.data.tags["team"] == "support" and found.data.tags["ftrun.preflight"] == "pass"
    inputs = {one.tags[0].value: one.dataset for one in found.inputs.dataset_inputs}
    assert inputs["training"].name == "train.jsonl" and "eval" in inputs
    journal = read_journal(folder / "metrics.jsonl")
    for entry in journal:
        for name, value in entry.metrics.items():
            history = client.get_metric_history(found.info.run_id, name)
            assert (entry.step, value) in [(one.step, one.value) for one in history]
    assert {"train/loss", "train/grad_norm", "eval/loss", "eval/exact_match"} <= set(found.data.metrics)
    names = {one.path for one in client.list_artifacts(found.info.run_id, "ftrun")}
    assert {
        "ftrun/recipe.yaml",
        "ftrun/recipe.resolved.yaml",
        "ftrun/preflight.json",
        "ftrun/answers.jsonl",
        "ftrun/answers.json",
    } <= names
    table = json.loads((folder / "ftrun" / "answers.json").read_text(encoding="utf-8"))
    assert json.loads(found.data.tags["mlflow.loggedArtifacts"]) == [
        {"path": "ftrun/answers.json", "type": "table"}
    ]
    lines = (folder / "ftrun" / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert rows == [json.loads(line) for line in lines]


def test_an_adapter_is_saved_as_peft_writes_it(tmp_path: Path) -> None:
    world = sft_lora(tmp_path)
    assert run(world, ["training.num_train_epochs=1"]) == 0
    model = tmp_path / "runs" / "healthy-1" / "model"
    assert {"adapter_model.safetensors", "adapter_config.json"} <= {file.name for file in model.iterdir()}
    reloaded = AutoPeftModelForCausalLM.from_pretrained(model)
    tokens = AutoTokenizer.from_pretrained(model)("What colour is the lamp?", return_tensors="pt")
    with torch.no_grad():
        adapted = reloaded(**tokens).logits
        with reloaded.disable_adapter():
            base = reloaded(**tokens).logits
    assert not torch.equal(adapted, base)


def test_packed_rows_train(tmp_path: Path) -> None:
    assert run(sft_packed(tmp_path)) == 0


def test_a_finished_run_is_a_model_for_the_next(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    assert run(world, ["training.max_steps=2"]) == 0
    wrote = AutoModelForCausalLM.from_pretrained(tmp_path / "runs" / "healthy-1" / "model")
    world.recipe["model"]["path"] = "run:healthy"
    again = ascend(world.write(), checks=(), folder=lambda file: tmp_path / "out", needed=_model_stage()).at
    assert again is not None
    theirs = dict(wrote.named_parameters())
    ours: Any = again
    assert all(torch.equal(p, theirs[name]) for name, p in ours.model.named_parameters())


def _model_stage() -> Any:
    from ftrun.checks.stages import AtModel

    return AtModel


def test_what_preflight_refuses_leaves_nothing(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    world.rows[3]["completion"] = world.rows[4]["completion"] = " "
    assert run(world) == 3
    assert not (tmp_path / "runs").exists()


def test_a_run_that_breaks_is_recorded_as_failed(tmp_path: Path) -> None:
    world = sft_chat(tmp_path)
    # transformers asks for this metric only when it has evaluated for the first time.
    world.recipe["training"] |= {"load_best_model_at_end": True, "metric_for_best_model": "eval_nonsense"}
    world.recipe["preflight"] = {"ignore": {"TRAIN036": "the run is to break"}}
    with pytest.raises(RunError, match="eval_nonsense"):
        run(world)
    _, found = tracked(world)
    assert found.info.status == "FAILED"
    assert "eval_nonsense" in found.data.tags["ftrun.failure"]
    assert "Traceback" in (tmp_path / "runs" / "healthy-1" / "error.txt").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_run_saves_a_checkpoint(number: int, tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    world.recipe["training"] |= {"num_train_epochs": 500, "logging_steps": 1, "save_strategy": "no"}
    command = [sys.executable, "-m", "ftrun", str(world.write())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        journal = tmp_path / "runs" / "healthy-1" / "metrics.jsonl"
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and not (journal.exists() and journal.stat().st_size):
            time.sleep(0.2)
        os.kill(process.pid, number)
        output, _ = process.communicate(timeout=240)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    (checkpoint,) = (tmp_path / "runs" / "healthy-1" / "checkpoints").glob("checkpoint-*")
    assert str(checkpoint) in output
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    assert f"checkpoint-{state['global_step']}" == checkpoint.name
    _, found = tracked(world)
    assert found.info.status == "KILLED"


def test_answers_are_asked_from_the_rows_themselves(tmp_path: Path) -> None:
    ascent = ascend(
        sft_chat(tmp_path).write(), checks=(), folder=lambda file: tmp_path / "out", needed=_model_stage()
    )
    at: Any = ascent.at
    (answer, *_) = answer_rows(at.eval, 2, at.model, at.tokenizer, at.stop_ids, max_new_tokens=4)
    assert answer.prompt.endswith("assistant\n")
    assert answer.expected.startswith("The ") and answer.expected.endswith(".")


def test_a_resumed_run_ends_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    world = sft_lora(tmp_path)
    world.recipe["model"]["lora"]["lora_dropout"] = 0.1
    world.recipe["training"] |= {
        "max_steps": 8,
        "save_strategy": "steps",
        "save_steps": 4,
        "logging_steps": 1,
    }
    assert run(world) == 0
    folder = tmp_path / "runs" / "healthy-1"
    weights = (folder / "model" / "adapter_model.safetensors").read_bytes()
    # As a run that was killed after its first checkpoint, in the middle of writing the second.
    shutil.rmtree(folder / "model")
    (folder / "checkpoints" / "checkpoint-8" / "trainer_state.json").unlink()

    assert run(world, resume=True) == 0
    assert (folder / "model" / "adapter_model.safetensors").read_bytes() == weights
    assert [path.name for path in (tmp_path / "runs").glob("healthy-*")] == ["healthy-1"]
    _, found = tracked(world)
    assert found.info.status == "FINISHED"


def test_a_run_is_not_resumed_with_other_settings(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    with pytest.raises(RunError, match="no run of healthy"):
        run(world, resume=True)
    assert run(world, ["training.max_steps=2"]) == 0
    with pytest.raises(RunError, match="recipe is not the one"):
        run(world, ["training.max_steps=2", "training.learning_rate=1e-5"], resume=True)
