"""`ftrun reproduce`: a run is repeated bit for bit, or it is said where and why it first differs."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mlflow import MlflowClient

from ftrun.checks.catalogue import load_checks
from ftrun.checks.testing import World, dpo_full, ppo_full, reward_full, sft_full, sft_lora
from ftrun.runner.pipeline import run_pipeline
from ftrun.runner.printing.text import make_console
from ftrun.runner.record.comparison import Comparison, compare_runs, is_left_out
from ftrun.runner.record.drift import Difference, find_drift
from ftrun.runner.record.install import find_source, list_commands
from ftrun.runner.record.ladder import Ladder
from ftrun.runner.record.machine import write_requirements
from ftrun.runner.record.repetition import Request
from ftrun.runner.record.reproduction import reproduce
from ftrun.runner.record.source import read_state
from ftrun.runner.run import run_recipe
from ftrun.runner.tracking.journal import Journal
from ftrun.runner.tracking.lookup import find_run
from ftrun.schemas.errors import RunError, TrackingError

WORLDS = (sft_full, pytest.param(sft_lora, marks=pytest.mark.slow), dpo_full, reward_full, ppo_full)


def short(world: World) -> World:
    world.recipe["training"] |= {
        "max_steps": 4,
        "save_strategy": "steps",
        "save_steps": 2,
        "logging_steps": 1,
    }
    return world


def train(world: World, **options: Any) -> Path:
    console = make_console()
    assert run_recipe(world.write(), sets=(), ignore={}, out=console, err=console, **options) == 0
    return max((world.folder / "runs").glob("healthy-?"))


def repeat(reference: object, uri: str | None = None, **wish: Any) -> int:
    console = make_console()
    return reproduce(str(reference), Request(**wish), uri=uri, out=console, err=console)


def store(world: World) -> str:
    return f"sqlite:///{world.folder / 'runs' / 'mlflow.db'}"


def result(world: World, name: str = "healthy-1-reproduced-1") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((world.folder / "runs" / name / "reproduction.json").read_text())
    return found


def check(
    reference: object, capsys: pytest.CaptureFixture[str], **wish: Any
) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code of `--check`, and what differs by its name, with the rung that it is on."""
    capsys.readouterr()
    code = repeat(reference, check=True, format="json", **wish)
    (told,) = json.loads(capsys.readouterr().out)["runs"]
    return code, {
        one["what"]: one | {"rung": rung["name"]} for rung in told["drift"] for one in rung["differences"]
    }


@pytest.mark.parametrize("make", WORLDS)
def test_a_run_repeats_bit_for_bit(make: Callable[[Path], World], tmp_path: Path) -> None:
    world = short(make(tmp_path))
    train(world)
    assert repeat("healthy-1", store(world)) == 0
    found = result(world)
    assert found["verdict"] == "exact" and found["weights"] == "same" and found["last_step"] == 4
    assert found["first"] is None and found["values"] >= 4 * 6
    assert all(name.endswith(("runtime", "per_second")) for name in found["left_out"])
    assert not any(one["effect"] != "cannot" for rung in found["drift"] for one in rung["differences"])
    assert {rung["name"]: rung["verdict"] for rung in found["drift"]}["tokens"] == "same"

    client = MlflowClient(store(world))
    original = find_run("healthy-1", store(world))
    again = find_run("healthy-1-reproduced-1", store(world))
    assert again.data.tags["ftrun.reproduces"] == original.info.run_id
    assert again.data.tags["mlflow.parentRunId"] == original.info.run_id
    assert again.data.tags["ftrun.reproduction"] == "exact"
    assert again.info.experiment_id == original.info.experiment_id
    names = {one.path for one in client.list_artifacts(again.info.run_id, "ftrun")}
    assert "ftrun/reproduction.json" in names
    # By the recipe's name a repetition is never meant.
    assert find_run("healthy", store(world)).info.run_id == original.info.run_id


def test_a_second_user_needs_the_store_and_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = short(ppo_full(tmp_path / "first"))
    world.recipe["output"] = str(tmp_path / "first" / "runs")
    train(world)
    data, home, work = (tmp_path / name for name in ("data", "home", "work"))
    for folder in (data, home, work):
        folder.mkdir()
    shutil.move(world.folder / "train.jsonl", data / "train.jsonl")
    for name in ("rewards.py", "recipe.yaml"):
        (world.folder / name).unlink()
    # Of the first user's output only what is in the store is left.
    for path in (world.folder / "runs").iterdir():
        if path.name not in ("mlflow.db", "mlruns"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.move(world.folder / "runs", tmp_path / "served")
    uri = f"sqlite:///{tmp_path / 'served' / 'mlflow.db'}"
    # Where the store says that its artifacts are.
    shutil.copytree(tmp_path / "served" / "mlruns", world.folder / "runs" / "mlruns")

    monkeypatch.chdir(work)
    with pytest.raises(RunError) as missing:
        repeat("healthy-1", uri)
    (rows,) = read_state(fetched(uri, tmp_path))["data"]["data.train.0"]["files"].values()
    for told in ("train.jsonl", f"{rows['bytes']:,} bytes", rows["sha256"], "--data"):
        assert told in str(missing.value)

    command = [sys.executable, "-m", "ftrun", "reproduce", "healthy-1", "--uri", uri, "--data", str(data)]
    environment = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "equal bit for bit" in done.stdout
    assert (work / "runs" / "healthy-1-reproduced-1" / "model").is_dir()


def fetched(uri: str, scratch: Path) -> Path:
    client = MlflowClient(uri)
    run = find_run("healthy-1", uri)
    client.download_artifacts(run.info.run_id, "ftrun", str(scratch))
    return scratch / "ftrun"


def test_another_row_is_named_and_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = short(sft_full(tmp_path))
    folder = train(world)
    assert check(folder, capsys)[0] == 0
    world.rows[3]["completion"] = "It has no colour at all."
    world.write()
    code, found = check(folder, capsys)
    assert code == 4
    assert found["train.jsonl"]["rung"] == "data" and found["train.jsonl"]["effect"] == "changes"

    assert repeat(folder) == 4
    assert "train.jsonl: not what healthy-1 read" in capsys.readouterr().out.replace("\n", " ")
    assert not list((tmp_path / "runs").glob("*reproduced*"))
    assert repeat(folder, anyway=True) == 4
    told = result(world)
    assert told["verdict"] == "drifted" and told["weights"] == "different"
    assert told["first"]["step"] == 1 and told["first_weights"] == 2
    assert {"train.jsonl", "train"} <= set(told["explained_by"])

    # The same rows under another name are the same rows.
    (tmp_path / "elsewhere").mkdir()
    train_file = short(sft_full(tmp_path / "fresh"))
    train_file.write()
    shutil.copy(tmp_path / "fresh" / "train.jsonl", tmp_path / "elsewhere" / "train.jsonl")
    assert check(folder, capsys, data=tmp_path / "elsewhere")[0] == 0


@pytest.mark.slow
def test_another_base_model_is_named_by_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ftrun.runner.tiny import locate

    world = short(sft_lora(tmp_path))
    base = tmp_path / "base"
    shutil.copytree(locate(), base)
    world.recipe["model"]["path"] = "base"
    folder = train(world)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    code, found = check(folder, capsys)
    assert code == 4 and found["base: config.json"]["rung"] == "model"
    assert repeat(folder) == 4
    assert repeat(folder, anyway=True) == 4
    assert "base: config.json" in result(world)["explained_by"]
    shutil.rmtree(base)
    with pytest.raises(RunError, match=r"base: model.safetensors \([\d,]+ bytes, sha256 [0-9a-f]{64}\)"):
        repeat(folder)


@pytest.mark.slow
def test_other_threads_are_named_and_set_as_they_were(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = short(sft_full(tmp_path))
    world.recipe["model"]["attention"] = "eager"
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        folder = train(world)
    finally:
        torch.set_num_threads(threads)
    code, found = check(folder, capsys)
    assert code == 0 and found["threads"]["rung"] == "hardware"
    assert (found["threads"]["then"], found["threads"]["now"]) == (str(threads + 1), str(threads))
    assert repeat(folder) == 0
    assert torch.get_num_threads() == threads
    again = read_state(tmp_path / "runs" / "healthy-1-reproduced-1")
    assert again["segments"][0]["hardware"]["threads"] == threads + 1


def test_another_seed_and_other_packages_are_named(tmp_path: Path) -> None:
    world = short(sft_full(tmp_path))
    first = read_state(train(world))
    world.recipe["training"]["seed"] = 8
    second = read_state(train(world))
    rungs = {rung.name: rung for rung in find_drift(first, second)}
    assert [one.what for one in rungs["seeds"].differences] == ["seed"]
    assert [one.what for one in rungs["recipe"].differences] == ["training.seed"]
    assert rungs["seeds"].matters and rungs["data"].verdict == "same" == rungs["model"].verdict

    now = json.loads(json.dumps(first))
    environment = now["segments"][0]["environment"]
    environment["packages"] |= {"torch": "9.9", "rich": "99"}
    environment["packages"].pop("peft")
    environment["variables"] |= {"MKL_CBWR": "AVX2", "PYTHONHASHSEED": "3"}
    now["segments"][0]["hardware"] |= {"cpu_capability": "AVX2", "cpu": "another"}
    now["segments"][0]["code"] |= {"ftrun_sources": "0", "commit": "abc"}
    del now["tokens"]
    found = {one.what: one for rung in find_drift(first, now) for one in rung.differences}
    effects = {what: one.effect for what, one in found.items()}
    assert effects == {
        "torch": "may",
        "peft": "may",
        "rich": "cannot",
        "MKL_CBWR": "changes",
        "PYTHONHASHSEED": "cannot",
        "cpu_capability": "changes",
        "cpu": "may",
        "ftrun's own code": "may",
        "git commit around the recipe": "cannot",
    }
    assert {rung.name: rung.verdict for rung in find_drift(first, now)}["tokens"] == "unknown"

    # Of the hub a commit decides, and what is not on this machine is not known before the run.
    model = {"written": "a/b", "hub": "a/b", "commit": "c", "files": {"x": {"bytes": 1, "sha256": "1"}}}
    rows = {"written": "a/c", "hub": "a/c", "sha256": "1"}
    then = first | {"models": {"model.path": model}, "data": {"data.train.0": rows}}
    for commit, files, kind in (
        ("c", {}, "same"),
        ("d", {"x": {"bytes": 1, "sha256": "2"}}, "different"),
        (None, {}, "unknown"),
    ):
        after = then | {"models": {"model.path": model | {"commit": commit, "files": files}}}
        after |= {"data": {"data.train.0": {"written": "a/c", "hub": "a/c"}}}
        verdicts = {rung.name: rung.verdict for rung in find_drift(then, after)}
        assert (verdicts["model"], verdicts["data"]) == (kind, "unknown")
    assert found["peft"].now == "none" and isinstance(found["peft"], Difference)


def test_a_few_steps_keep_the_schedule(tmp_path: Path) -> None:
    world = short(sft_full(tmp_path))
    world.recipe["training"]["lr_scheduler_type"] = "cosine"
    folder = train(world)
    assert repeat(folder, steps=2) == 0
    found = result(world)
    assert found["verdict"] == "exact" and found["last_step"] == 2 and found["weights"] == "not compared"
    again = tmp_path / "runs" / "healthy-1-reproduced-1"
    assert json.loads((again / "ladder.json").read_text())["steps"].keys() == {"2"}
    assert not (again / "model").exists()
    assert read_state(again)["resolved"]["training"]["max_steps"] == 4
    assert repeat(folder, steps=4) == 0
    assert result(world, "healthy-1-reproduced-2")["weights"] == "same"


def test_a_resumed_run_repeats_in_one_go(tmp_path: Path) -> None:
    world = short(sft_lora(tmp_path))
    world.recipe["model"]["lora"]["lora_dropout"] = 0.1
    world.recipe["training"] |= {"max_steps": 9, "save_steps": 5, "logging_steps": 2}
    folder = train(world)
    shutil.rmtree(folder / "model")
    shutil.rmtree(folder / "checkpoints" / "checkpoint-9")
    train(world, resume=True)
    assert repeat(folder) == 0
    found = result(world)
    assert found["verdict"] == "exact" and found["weights"] == "same"
    assert "train/num_tokens" in found["left_out"] and "train/grad_norm" not in found["left_out"]


def test_a_run_that_went_back_repeats_with_its_remedy(tmp_path: Path) -> None:
    world = short(sft_full(tmp_path))
    world.recipe["training"] |= {"learning_rate": 1e20, "warmup_steps": 0}
    world.recipe["guards"] = {"learning_rate_factor": 1e-24}
    ignored = {one.id: "made to fail" for one in load_checks()}
    console = make_console()
    assert run_recipe(world.write(), sets=(), ignore=ignored, out=console, err=console) == 0
    folder = tmp_path / "runs" / "healthy-1"
    assert (folder / "events.jsonl").exists()
    assert repeat(folder) == 0
    assert result(world)["verdict"] == "exact"


def test_a_run_that_failed_repeats_its_failure(tmp_path: Path) -> None:
    world = short(sft_full(tmp_path))
    world.recipe["training"] |= {"learning_rate": 1e25, "warmup_steps": 0}
    world.recipe["guards"] = {"loss_not_finite": {"action": "stop"}}
    ignored = {one.id: "made to fail" for one in load_checks()}
    console = make_console()
    with pytest.raises(RunError):
        run_recipe(world.write(), sets=(), ignore=ignored, out=console, err=console)
    assert repeat(tmp_path / "runs" / "healthy-1") == 0
    found = result(world)
    assert found["weights"] == "not compared" and "GUARD001" in found["failure"] and found["values"]


def test_a_pipeline_repeats_stage_by_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = short(sft_full(tmp_path))
    world.write()
    lora = {"model.lora": {"r": 4, "target_modules": "all-linear"}, "training.learning_rate": 1.0e-3}
    stages = {
        "first": {"recipe": "recipe.yaml", "set": lora},
        "second": {"recipe": "recipe.yaml", "set": {"model.path": "stage:first"}},
    }
    pipeline = {"name": "twice", "output": str(tmp_path / "runs"), "stages": stages}
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False), encoding="utf-8")
    console = make_console()
    path = tmp_path / "pipeline.yaml"
    assert run_pipeline(path, sets=(), ignore={}, out=console, err=console) == 0
    capsys.readouterr()
    assert repeat("twice-1", store(world), format="json") == 0
    first, second = json.loads(capsys.readouterr().out)["runs"]
    assert [one["verdict"] for one in (first, second)] == ["exact", "exact"]
    made = read_state(Path(second["folder"]))
    assert made["models"]["model.path"]["place"] == f"{first['folder']}/model"

    # One stage by its own run takes the model that the recorded one took.
    assert repeat(tmp_path / "runs" / "twice-1" / "second") == 0
    alone = read_state(tmp_path / "runs" / "twice-1-second-reproduced-2")
    assert alone["models"]["model.path"]["place"] == str(tmp_path / "runs" / "twice-1" / "first" / "model")
    with pytest.raises(RunError, match="--steps is for one run"):
        repeat(tmp_path / "runs" / "twice-1", steps=1)


def test_a_secret_that_was_taken_out_is_told(tmp_path: Path) -> None:
    world = short(sft_full(tmp_path))
    folder = train(world)
    lock = json.loads((folder / "lock.json").read_text())
    lock["recipe"]["merged"]["training"]["eos_token"] = "<secret>"
    (folder / "lock.json").write_text(json.dumps(lock))
    with pytest.raises(RunError, match="a secret was taken out of the recipe"):
        repeat(folder)


def test_what_is_no_recorded_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds no lock\.json"):
        repeat(tmp_path)
    with pytest.raises(TrackingError, match="there is no store at"):
        repeat("healthy-1", f"sqlite:///{tmp_path / 'absent.db'}")


def journals(
    tmp_path: Path, then: dict[int, dict[str, float]], now: dict[int, dict[str, float]]
) -> tuple[Path, Path]:
    folders = (tmp_path / "then", tmp_path / "now")
    for folder, entries in zip(folders, (then, now), strict=True):
        shutil.rmtree(folder, ignore_errors=True)
        journal = Journal(folder)
        for step, metrics in entries.items():
            journal.append(step, metrics)
        journal.close()
    return folders


def lock_with(**weights: str) -> dict[str, Any]:
    kinds = {"computed_in": "as loaded", "trained_in": "float32", **weights}
    return {"weights": kinds, "segments": [{}], "resolved": {"training": {"logging_steps": 10}}}


def compare(folders: tuple[Path, Path], ladders: tuple[Ladder, Ladder], **weights: str) -> Comparison:
    return compare_runs(*folders, ladders, lock_with(**weights), upto=None, ended=True)


def test_the_first_number_that_differs_is_found(tmp_path: Path) -> None:
    same = (Ladder("a", {}, "w"), Ladder("a", {}, "w"))
    then = {1: {"train/loss": 2.0, "eval/runtime": 1.0}, 2: {"train/loss": 1.0, "train/x": math.nan}}
    now = {1: {"train/loss": 2.0, "eval/runtime": 9.0}, 2: {"train/loss": 1.0, "train/x": math.nan}}
    found = compare(journals(tmp_path, then, now), same)
    assert found.verdict == "exact" and found.values == 3 and found.left_out == ("eval/runtime",)

    now[2]["train/loss"] = math.nextafter(1.0, 2.0)
    found = compare(journals(tmp_path, then, now), same)
    assert found.verdict == "close" and found.first is not None
    assert (found.first.step, found.first.metric, found.first.now) == (2, "train/loss", now[2]["train/loss"])

    now[2]["train/loss"] = 1.001  # 5e-4 of the largest loss
    assert compare(journals(tmp_path, then, now), same).verdict == "drifted"
    assert compare(journals(tmp_path, then, now), same, computed_in="bfloat16").verdict == "close"
    del now[2]["train/x"]
    assert compare(journals(tmp_path, then, now), same, computed_in="bfloat16").verdict == "drifted"


def test_equal_numbers_over_other_weights_are_not_exact(tmp_path: Path) -> None:
    entries = {1: {"train/loss": 2.0}, 4: {"train/loss": 1.0}}
    folders = journals(tmp_path, entries, entries)
    found = compare(folders, (Ladder("a", {"2": "x", "4": "y"}, "w"), Ladder("a", {"2": "x", "4": "z"}, "v")))
    assert found.verdict == "close" and found.weights == "different" and found.first_weights == 4
    found = compare(folders, (Ladder("a", {}, "w"), Ladder("b", {}, "w")))
    assert found.verdict == "close" and found.first_weights == 0


def test_what_a_resumed_run_cannot_know_is_left_out() -> None:
    lock = lock_with() | {"segments": [{}, {"checkpoint": "checkpoint-15"}]}
    assert is_left_out(30, "train/num_tokens", lock) and is_left_out(40, "train/train_loss", lock)
    assert is_left_out(20, "train/loss", lock) and not is_left_out(20, "train/grad_norm", lock)
    assert not is_left_out(30, "train/loss", lock) and not is_left_out(10, "train/loss", lock)
    lock["segments"][1]["checkpoint"] = "checkpoint-10"
    assert not is_left_out(20, "train/loss", lock)


def test_the_packages_of_a_record_are_installed_in_an_environment_of_their_own(tmp_path: Path) -> None:
    made, installed, own = list_commands(
        tmp_path / "r.txt", tmp_path / "env", "python3.11", tmp_path / "source"
    )
    python = str(tmp_path / "env" / "bin" / "python")
    assert made == ["python3.11", "-m", "venv", str(tmp_path / "env")]
    assert installed[:4] == [python, "-m", "pip", "install"] and installed[-2:] == [
        "-r",
        str(tmp_path / "r.txt"),
    ]
    assert own[-2:] == ["--no-deps", str(tmp_path / "source")]
    assert len(list_commands(tmp_path / "r.txt", tmp_path / "env", "python3.11", None)) == 2
    text = write_requirements()
    if "# ftrun==" in text:
        source = find_source(text)
        assert source is not None and (source / "pyproject.toml").is_file()
    assert find_source("torch==2.0\n") is None
