"""Several processes train what one does: the same weights, one record; and they end together."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from numpy.typing import NDArray

from ftrun.checks.testing import (
    World,
    dpo_full,
    dpo_lora,
    reward_full,
    reward_lora,
    sft_full,
    sft_lora,
)
from ftrun.runner.arguments import count_steps
from ftrun.runner.batch import describe_batch, keep_batch, measure_batch
from ftrun.runner.checkpoints import list_checkpoints, read_manifest
from ftrun.runner.printing.text import make_console
from ftrun.runner.record.drift import find_drift
from ftrun.runner.record.repetition import DRIFTED, Request
from ftrun.runner.record.reproduction import reproduce
from ftrun.runner.record.source import read_state
from ftrun.runner.tracking.journal import read_journal
from ftrun.runner.tracking.pending import send_pending
from ftrun.schemas.errors import RunError
from ftrun.schemas.load import load_recipe

SECONDS = 240
ROWS = 8
Make = Callable[[Path], World]


def make_world(make: Make, folder: Path, processes: int, steps: int = 6) -> World:
    """A world whose updates have ROWS rows on so many processes; it holds rows out and saves every second step."""
    world = make(folder)
    world.recipe["data"]["eval"] = {"fraction": 0.25}
    world.recipe["training"] |= {"per_device_train_batch_size": ROWS // processes, "max_steps": steps}
    world.recipe["training"] |= {"save_strategy": "steps", "save_steps": 2, "save_total_limit": None}
    world.recipe["training"] |= {"logging_steps": 1, "eval_strategy": "steps", "eval_steps": 3}
    world.recipe["training"]["gradient_accumulation_steps"] = 1
    return world


def start(path: Path, processes: int, *words: str, script: Path | None = None) -> subprocess.Popen[str]:
    """`ftrun` in so many processes, as torchrun starts them."""
    program = [str(script)] if script else ["-m", "ftrun"]
    many = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(many if processes > 1 else []), *program, "run", str(path), *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


def run(path: Path, processes: int, *words: str) -> str:
    """What a run prints that comes to its end."""
    with start(path, processes, *words) as process:
        output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output
    return output


def home(world: World) -> Path:
    return world.folder / "runs" / "healthy-1"


def read_weights(world: World) -> Mapping[str, NDArray[Any]]:
    from safetensors.numpy import load_file

    (file,) = (home(world) / "model").glob("*.safetensors")
    weights: Mapping[str, NDArray[Any]] = load_file(file)
    return weights


def assert_weights_close(one: World, other: World) -> None:
    """Equal to rounding in float32, as a share of the largest weight of each tensor."""
    before, after = read_weights(one), read_weights(other)
    assert before.keys() == after.keys()
    for name, weight in before.items():
        # What LoRA begins with at zero has moved by as little as the steps are large.
        scale = max(float(np.abs(weight).max()), 1e-2)
        assert float(np.abs(weight - after[name]).max()) <= 1e-5 * scale, name


def read_losses(world: World) -> list[float]:
    journal = read_journal(home(world) / "metrics.jsonl")
    return [entry.metrics["train/loss"] for entry in journal if "train/loss" in entry.metrics]


def read_tracked(world: World) -> list[Any]:
    from mlflow import MlflowClient

    send_pending(home(world))  # a process beside the run may still be sending
    client = MlflowClient(f"sqlite:///{world.folder / 'runs' / 'mlflow.db'}")
    experiments = [one.experiment_id for one in client.search_experiments()]
    return list(client.search_runs(experiments))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Make], tuple[World, World, str]]:
    """Makes of a kind of run one in one process and one in two, each once, and has what the second printed."""
    made: dict[Make, tuple[World, World, str]] = {}

    def make_pair(make: Make) -> tuple[World, World, str]:
        if make not in made:
            folder = tmp_path_factory.mktemp(make.__name__)
            one, two = (make_world(make, folder / str(count), count) for count in (1, 2))
            run(one.write(), 1)
            made[make] = one, two, run(two.write(), 2)
        return made[make]

    return make_pair


@pytest.mark.parametrize(
    "make",
    [
        sft_lora,
        pytest.param(reward_full, marks=pytest.mark.slow),
        pytest.param(dpo_full, marks=pytest.mark.slow),
        pytest.param(sft_full, marks=pytest.mark.slow),
        pytest.param(reward_lora, marks=pytest.mark.slow),
        pytest.param(dpo_lora, marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_what_one_does(
    make: Make, pairs: Callable[[Make], tuple[World, World, str]]
) -> None:
    one, two, _ = pairs(make)
    assert_weights_close(one, two)
    assert len(read_losses(two)) == 6
    assert read_losses(two) == pytest.approx(read_losses(one), rel=1e-5)


def test_there_is_one_record(pairs: Callable[[Make], tuple[World, World, str]]) -> None:
    _, two, output = pairs(sft_lora)
    assert [one.name for one in (two.folder / "runs").glob("healthy-*")] == ["healthy-1"]
    assert sum(line.startswith("step 6/6  loss") for line in output.splitlines()) == 1
    assert output.count("the model is in") == 1
    assert "training healthy-1: 6 steps of 4 rows × 2 processes = 8 rows an update" in output
    assert "Warning" not in output
    (tracked,) = read_tracked(two)
    assert tracked.info.status == "FINISHED"
    assert tracked.data.tags["ftrun.processes"] == "2"
    hardware = json.loads((home(two) / "lock.json").read_text())["segments"][0]["hardware"]
    assert (hardware["processes"], hardware["backend"]) == (2, "gloo")
    manifest = read_manifest(list_checkpoints(home(two))[4])
    assert manifest is not None
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= manifest.files.keys()
    assert (manifest.origin.processes, manifest.origin.batch) == (2, ROWS)


def test_another_number_of_processes_is_drift(pairs: Callable[[Make], tuple[World, World, str]]) -> None:
    one, two, _ = pairs(sft_lora)
    drift = find_drift(read_state(home(two)), read_state(home(one)))
    (hardware,) = [rung for rung in drift if rung.name == "hardware"]
    assert [(it.what, it.then, it.now) for it in hardware.differences if it.effect == "changes"] == [
        ("processes", "2", "1")
    ]


@pytest.mark.slow
def test_a_run_of_two_processes_is_repeated_by_one(
    pairs: Callable[[Make], tuple[World, World, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    _, two, _ = pairs(sft_lora)
    console = make_console()
    assert reproduce(str(home(two)), Request(), uri=None, out=console, err=console) == DRIFTED
    told = capsys.readouterr().out
    assert "2 processes trained it, and now 1; an update keeps its rows: 4 rows × 2 accumulated" in told
    result = json.loads((two.folder / "runs/healthy-1-reproduced-1/reproduction.json").read_text())
    assert result["verdict"] == "close"


def forget_after(world: World, step: int) -> None:
    for later, folder in list_checkpoints(home(world)).items():
        if later > step:
            shutil.rmtree(folder)


def test_a_run_goes_on_with_another_number_of_processes(
    tmp_path: Path, pairs: Callable[[Make], tuple[World, World, str]]
) -> None:
    _, whole, _ = pairs(sft_lora)
    world = make_world(sft_lora, tmp_path, 2)
    run(world.write(), 2)
    forget_after(world, 2)
    told = run(world.write(), 1, "--resume")
    assert "checkpoint-2 is of 2 processes; an update keeps its rows: 4 rows × 2 accumulated" in told
    forget_after(world, 4)
    told = run(world.write(), 2, "--resume")
    assert "an update keeps its rows" not in told  # as the recipe has it
    assert_weights_close(whole, world)
    lock = json.loads((home(world) / "lock.json").read_text())
    assert [one["hardware"]["processes"] for one in lock["segments"]] == [2, 1, 2]
    assert not any(one["changed"] for one in lock["segments"])
    assert len(read_tracked(world)) == 1


def find_rank(process: subprocess.Popen[str], rank: int) -> psutil.Process:
    children = psutil.Process(process.pid).children()
    return next(one for one in children if one.environ().get("RANK") == str(rank))


def wait_for_step(world: World, step: int, process: subprocess.Popen[str]) -> None:
    deadline, journal = time.monotonic() + SECONDS, home(world) / "metrics.jsonl"
    while not (journal.exists() and f'"step": {step},'.encode() in journal.read_bytes()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the step did not come"
        time.sleep(0.02)


def test_processes_end_together(tmp_path: Path) -> None:
    world = make_world(sft_full, tmp_path, 2, steps=2000)
    with start(world.write(), 2) as process:
        wait_for_step(world, 5, process)
        find_rank(process, 1).send_signal(signal.SIGKILL)
        output, _ = process.communicate(timeout=SECONDS)
    assert "since process 1 ended without a word: killed" in output
    assert "is kept: once the cause is gone, the same command with --resume goes on" in output
    (tracked,) = read_tracked(world)
    assert tracked.info.status == "FAILED"
    begun = max(list_checkpoints(home(world)))

    with start(world.write(), 2, "--resume") as process:
        wait_for_step(world, begun + 5, process)
        find_rank(process, 1).send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=SECONDS)
    assert output.count("interrupted at step") == 1
    (tracked,) = read_tracked(world)
    assert tracked.info.status == "KILLED"
    assert max(list_checkpoints(home(world))) > begun


BY_RANK = """
import os, sys
from ftrun.runner.cli import main
if os.environ["RANK"] == "1":
    sys.argv[2] = {other!r}
main()
"""


@pytest.mark.slow
def test_a_mistake_in_one_process_ends_all(tmp_path: Path) -> None:
    world = make_world(sft_full, tmp_path / "first", 2)
    other = make_world(sft_full, tmp_path / "second", 2)
    other.recipe["output"] = world.recipe["output"]
    other.rows[3]["completion"] = "Another machine has another answer."
    script = tmp_path / "by_rank.py"
    script.write_text(BY_RANK.format(other=str(other.write())), encoding="utf-8")
    with start(world.write(), 2, script=script) as process:
        output, _ = process.communicate(timeout=SECONDS)
    assert "MODEL029 process 1 of 2 would train other rows than process 0" in output
    assert output.count("MODEL029") == 1
    assert "exitcode  : 3" in output

    (other.folder / "train.jsonl").unlink()
    with start(world.write(), 2, script=script) as process:
        output, _ = process.communicate(timeout=SECONDS)
    assert "Process 1: " in output and "train.jsonl" in output
    assert "exitcode  : 3" in output
    assert not list((world.folder / "runs").glob("healthy-*"))


@pytest.mark.slow
def test_a_pipeline_is_run_by_all_processes(tmp_path: Path) -> None:
    first, second = make_world(sft_lora, tmp_path / "sft", 2), make_world(dpo_lora, tmp_path / "dpo", 2)
    pipeline = {
        "name": "both",
        "output": str(tmp_path / "runs"),
        "stages": {
            "sft": {"recipe": str(first.write())},
            "dpo": {"recipe": str(second.write()), "set": {"model.path": "stage:sft"}},
        },
    }
    path = tmp_path / "both.yaml"
    path.write_text(yaml.safe_dump(pipeline, sort_keys=False), encoding="utf-8")
    told = run(path, 2)
    assert told.count("both-1 is done; the model of its last stage is in") == 1
    lock = json.loads((tmp_path / "runs/both-1/dpo/lock.json").read_text())
    assert lock["segments"][0]["hardware"]["processes"] == 2
    assert "nothing to train: every stage of both is unchanged" in run(path, 2)
    assert "stage sft (1 of 2)" in run(path, 1)  # smaller updates: not the same


@pytest.mark.parametrize(
    ("rows", "drop", "processes", "steps"),
    [(32, False, 1, 8), (33, False, 2, 5), (40, False, 3, 4), (33, True, 2, 4), (33, False, 4, 3)],
)
def test_steps_are_counted_over_all_processes(rows: int, drop: bool, processes: int, steps: int) -> None:
    training = {
        "max_steps": -1,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "dataloader_drop_last": drop,
    }
    assert count_steps(training, rows, processes) == steps


@pytest.mark.parametrize(
    ("batch", "processes", "micro", "accumulation"), [(8, 1, 4, 2), (8, 2, 4, 1), (8, 4, 2, 1), (12, 2, 3, 2)]
)
def test_an_update_keeps_its_rows(
    batch: int, processes: int, micro: int, accumulation: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    monkeypatch.setenv("RANK", "0")
    kept = keep_batch(load_recipe(make_world(sft_full, tmp_path, 2).write()), batch).recipe.training
    assert kept["per_device_train_batch_size"] == micro
    assert kept["gradient_accumulation_steps"] == accumulation
    assert measure_batch(kept, processes) == batch
    assert describe_batch(kept, processes).endswith(f"= {batch} rows an update")


def test_rows_that_cannot_be_shared_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(RunError, match="8 rows, which 3 processes cannot share evenly"):
        keep_batch(load_recipe(make_world(sft_full, tmp_path, 2).write()), 8)
