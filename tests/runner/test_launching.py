"""The processes of a run: started, told who they are, ended together; FSDP; and the jobs that are written."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftrun.checks.testing import (
    World,
    dpo_full,
    dpo_lora,
    ppo_full,
    ppo_lora,
    reward_full,
    sft_full,
    sft_lora,
)
from ftrun.runner.environment import read_place
from ftrun.runner.launching.job import plan_job
from ftrun.runner.launching.kubernetes import form_manifest, make_name
from ftrun.runner.launching.processes import describe_end, judge_codes
from ftrun.runner.launching.sharding import require_strategy
from ftrun.runner.launching.slurm import form_script
from ftrun.runner.launching.surroundings import find_first_host, list_tasks, translate_slurm
from ftrun.runner.pipeline import run_pipeline
from ftrun.runner.printing.text import make_console
from ftrun.runner.record.ladder import read_ladder
from ftrun.runner.run import run_recipe
from ftrun.schemas.errors import RunError

SECONDS = 300
STEP = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
}


def environ(**more: str) -> dict[str, str]:
    """The environment without what a launcher of this test would say, one thread each."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}


def ftrun(*words: str | Path, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ftrun", *(str(word) for word in words)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=environ(**more), check=False, timeout=SECONDS
    )


def short(world: World, **training: object) -> Path:
    """The recipe of a world for a few updates of eight rows."""
    world.recipe["training"] |= {
        "max_steps": 3,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": 3,
    }
    world.recipe["training"] |= {"per_device_train_batch_size": 4, **training}
    world.recipe["preflight"] = {"experiments": False}
    return world.write()


# ------------------------------------------------------------------------------------------------ who a process is


def test_srun_is_understood_in_torchs_words() -> None:
    told = translate_slurm(STEP)
    port = told.pop("MASTER_PORT")
    assert told == {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "4",
        "MASTER_ADDR": "gpu07",
    }
    assert 1024 < int(port) < 32768
    assert translate_slurm({**STEP, "SLURM_PROCID": "0"})["MASTER_PORT"] == port
    assert translate_slurm({**STEP, "SLURM_STEP_ID": "1"})["MASTER_PORT"] != port
    assert translate_slurm({**STEP, "MASTER_PORT": "29500"})["MASTER_PORT"] == "29500"


def test_a_task_that_sees_a_gpu_of_its_own_takes_the_first() -> None:
    bound = {**STEP, "CUDA_VISIBLE_DEVICES": "3", "SLURM_GPUS_ON_NODE": "4"}
    assert translate_slurm(bound)["LOCAL_RANK"] == "0"
    shared = {**STEP, "CUDA_VISIBLE_DEVICES": "0", "SLURM_GPUS_ON_NODE": "1"}
    assert translate_slurm(shared)["LOCAL_RANK"] == "1"


def test_who_is_told_already_or_alone_is_told_nothing() -> None:
    assert translate_slurm({**STEP, "RANK": "0"}) == {}
    assert translate_slurm({**STEP, "SLURM_STEP_NUM_TASKS": "1"}) == {}
    # A batch script runs once for all tasks of its job, which it knows by these.
    assert translate_slurm({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}) == {}


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("gpu[003-005,9],cpu1", "gpu003"),
        ("a,b", "a"),
        ("r[1-2]n[04-07]-ib,x", "r1n04-ib"),
        ("localhost", "localhost"),
    ],
)
def test_the_first_machine_of_a_list(text: str, host: str) -> None:
    assert find_first_host(text) == host


def test_tasks_of_each_machine() -> None:
    assert list_tasks("2(x3),1") == [2, 2, 2, 1]


def test_a_place_is_what_the_launcher_says() -> None:
    assert not read_place({}).from_outside
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "2"}
    place = read_place({**torchrun, "ACCELERATE_USE_FSDP": "true"})
    assert (place.count, place.rank, place.local_count, place.machines) == (4, 3, 2, 2)
    assert place.from_outside and place.strategy == "fsdp"


# -------------------------------------------------------------------------------------------- how they end together


@pytest.mark.parametrize(
    ("codes", "failed", "asked", "code"),
    [
        ([3, 3], 0, False, 3),
        ([1, -9], 1, False, 1),
        ([-11, 1], 0, False, 1),
        ([130, 130], 0, True, 130),
        ([130, -15], 1, True, 130),
        ([-9, -9], 0, True, 130),
        ([77, 1], 0, False, 1),
        ([0, 1], 1, False, 1),
    ],
)
def test_the_exit_code_is_that_of_the_run(codes: list[int], failed: int, asked: bool, code: int) -> None:
    assert judge_codes(codes, failed, asked) == code


def test_an_end_is_told_in_words() -> None:
    assert describe_end(1, 7) == "process 1 failed first, with exit code 7"
    assert describe_end(1, -9).startswith("process 1 was ended by SIGKILL")


def test_several_machines_are_for_a_launcher(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    world.recipe["launch"] = {"processes": 4, "machines": 2}
    result = ftrun(world.write(), cwd=tmp_path)
    assert result.returncode == 1
    assert "--slurm" in result.stderr and "Traceback" not in result.stderr


def test_a_recipe_that_is_not_ready_ends_all_with_its_code(tmp_path: Path) -> None:
    path = sft_full(tmp_path).write()
    result = ftrun(path, "--set", "launch.processes=2", "--set=training.learning_rate=3.0", cwd=tmp_path)
    assert result.returncode == 3, result.stderr
    assert result.stdout.count("TRAIN001") == 1
    assert result.stderr.startswith("starting 2 processes, each with 1 thread")
    assert "process 1" not in result.stderr


def test_a_launcher_that_brings_another_number_is_refused(tmp_path: Path) -> None:
    path = sft_full(tmp_path).write()
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    result = ftrun(path, "--set", "launch.processes=2", cwd=tmp_path, **alone)
    assert result.returncode == 3
    assert "launch.processes is 2, and the launcher started 1" in result.stdout


@pytest.mark.parametrize("send", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_an_interruption_reaches_all_once_and_a_killed_launcher_ends_them(send: int, tmp_path: Path) -> None:
    path = short(sft_full(tmp_path), max_steps=100_000, save_strategy="no")
    command = [sys.executable, "-m", "ftrun", str(path), "--set=launch.processes=2"]
    pipe = subprocess.PIPE
    run = subprocess.Popen(command, cwd=tmp_path, env=environ(), stdout=pipe, stderr=pipe, text=True)
    assert run.stderr is not None
    seen = next((line for line in run.stderr if "  loss " in line), None)
    assert seen is not None, "it never took a step"
    run.send_signal(send)
    out, err = run.communicate(timeout=SECONDS)  # ends with the last of the processes
    assert run.returncode == (130 if send == signal.SIGINT else -send)
    assert "interrupted at step" in out
    assert "process 1" not in err


@pytest.mark.slow
def test_a_pipeline_starts_its_processes_itself(tmp_path: Path) -> None:
    first, second = short(sft_full(tmp_path / "sft")), short(dpo_full(tmp_path / "dpo"))
    pipeline = {
        "name": "both",
        "output": "runs",
        "launch": {"processes": 2},
        "stages": {
            "sft": {"recipe": str(first)},
            "dpo": {"recipe": str(second), "set": {"model.path": "stage:sft"}},
        },
    }
    path = tmp_path / "both.yaml"
    path.write_text(yaml.safe_dump(pipeline, sort_keys=False), encoding="utf-8")
    result = ftrun(path, cwd=tmp_path)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr
    assert result.stdout.count("both-1 is done; the model of its last stage is in") == 1
    assert result.stderr.startswith("starting 2 processes") and result.stderr.count("starting") == 1
    for stage in ("sft", "dpo"):
        folder = tmp_path / "runs" / "both-1" / stage
        lock = json.loads((folder / "lock.json").read_text())
        assert lock["segments"][0]["hardware"]["processes"] == 2
        assert list((folder / "model").glob("*.safetensors"))
    assert "nothing to train: every stage of both is unchanged" in ftrun(path, cwd=tmp_path).stdout


def test_a_program_does_not_train_for_processes_that_nobody_started(tmp_path: Path) -> None:
    console = make_console()
    alone: dict[str, Any] = {"sets": ["launch.processes=2"], "ignore": {}, "out": console, "err": console}
    path = sft_full(tmp_path).write()
    with pytest.raises(RunError, match=r"launch\.processes is 2, and this process is the only one"):
        run_recipe(path, **alone)
    both = tmp_path / "both.yaml"
    both.write_text(yaml.safe_dump({"name": "both", "stages": {"sft": {"recipe": str(path)}}}))
    with pytest.raises(RunError, match="torchrun"):
        run_pipeline(both, **alone)
    assert not list(tmp_path.rglob("healthy-*"))


# ------------------------------------------------------------------------------------------------------------- FSDP


def greedy(make: Callable[[Path], World]) -> Callable[[Path], World]:
    """A kind of PPO whose answers, and minibatches, are the same whoever draws."""

    def make_greedy(folder: Path) -> World:
        world = make(folder)
        world.recipe["training"] |= {"top_p": 1e-9, "num_mini_batches": 1, "learning_rate": 5e-5}
        return world

    return make_greedy


@pytest.mark.parametrize(
    "make",
    [
        sft_full,
        pytest.param(sft_lora, marks=pytest.mark.slow),
        pytest.param(reward_full, marks=pytest.mark.slow),
        pytest.param(dpo_full, marks=pytest.mark.slow),
        pytest.param(dpo_lora, marks=pytest.mark.slow),
        pytest.param(greedy(ppo_full), marks=pytest.mark.slow, id="ppo_full"),
        pytest.param(greedy(ppo_lora), marks=pytest.mark.slow, id="ppo_lora"),
    ],
)
def test_fsdp_equals_one_process_and_goes_on(make: Callable[[Path], World], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    def train(name: str, *words: str) -> dict[str, object]:
        result = ftrun(path, f"--set=output={name}", *words, cwd=tmp_path)
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr
        (file,) = (tmp_path / name / "healthy-1" / "model").glob("*.safetensors")
        return dict(load_file(file))

    path = short(make(tmp_path), save_steps=2)
    alone = train("alone", "--set=training.per_device_train_batch_size=8")
    divided = ["--set=launch.processes=2", "--set=launch.strategy=fsdp"]
    parts = train("parts", *divided)
    assert_close(parts, alone, tolerance=2e-6)
    ladder = read_ladder(tmp_path / "parts" / "healthy-1")
    assert "2" in ladder.steps
    # As if it had been killed behind its first checkpoint.
    subprocess.run(
        ["rm", "-r", "parts/healthy-1/model", "parts/healthy-1/checkpoints/checkpoint-3"], cwd=tmp_path
    )
    again = train("parts", *divided, "--resume")
    assert_close(again, parts, tolerance=0)


def assert_close(these: dict[str, object], those: dict[str, object], tolerance: float) -> None:
    """That two sets of weights have the same names, types and shapes, and values that close."""
    import torch

    assert these.keys() == those.keys()
    torch.testing.assert_close(these, those, rtol=0, atol=tolerance)


def test_two_networks_go_with_fsdp_and_not_with_deepspeed(tmp_path: Path) -> None:
    world = ppo_full(tmp_path)
    for strategy, code in (("fsdp", 0), ("deepspeed", 3)):
        world.recipe["launch"] = {"processes": 2, "strategy": strategy}
        result = ftrun("validate", world.write(), cwd=tmp_path)
        assert result.returncode == code, result.stdout
    assert "REC016 launch.strategy is deepspeed, and PPO trains a policy and a value model" in result.stdout


def test_a_checkpoint_of_another_strategy_is_refused(tmp_path: Path) -> None:
    (tmp_path / "optimizer.bin").touch()
    require_strategy(tmp_path, "fsdp")
    with pytest.raises(RunError, match=r"written with launch\.strategy: fsdp"):
        require_strategy(tmp_path, "ddp")


# ------------------------------------------------------------------------------------------------- jobs for clusters


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The recipe of a world on two machines of eight GPUs, in the folder that the command runs in."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    world = sft_full(tmp_path)
    world.recipe["launch"] = {"processes": 16, "machines": 2}
    return world.write()


def test_the_script_for_slurm_is_whole(recipe: Path) -> None:
    script = form_script(plan_job(recipe, ["training.learning_rate=1e-5"]))
    for line in ("--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--job-name=healthy"):
        assert f"#SBATCH {line}\n" in script
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert checked.returncode == 0 and not checked.stderr
    last = script.splitlines()[-1]
    assert last.startswith("srun ") and "run recipe.yaml --set=training.learning_rate=1e-5" in last
    assert "--gpus" not in form_script(plan_job(recipe, ["training.use_cpu=true"]))


def test_the_manifest_for_kubernetes_has_the_counts(recipe: Path) -> None:
    job = yaml.safe_load(form_manifest(plan_job(recipe, [])))
    assert (job["apiVersion"], job["kind"]) == ("trainer.kubeflow.org/v1alpha1", "TrainJob")
    trainer = job["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 8)
    assert trainer["resourcesPerNode"] == {"limits": {"nvidia.com/gpu": 8}}
    assert trainer["command"][-1] == "cd /workspace && exec torchrun -m ftrun run recipe.yaml"
    mounted = job["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"][0]
    pod = mounted["template"]["spec"]["template"]["spec"]
    names = {one["name"] for one in pod["containers"][0]["volumeMounts"]}
    assert names == {one["name"] for one in pod["volumes"]}


@pytest.mark.parametrize("name", ["Qwen3.sft_v2", "7b", "a" * 80, "x" + "-" * 49 + "y"])
def test_a_name_is_one_that_kubernetes_takes(name: str) -> None:
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", make_name(name)) and len(make_name(name)) <= 50


def test_the_server_is_written_and_a_secret_is_not(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert "export MLFLOW_TRACKING_URI=http://mlflow:5000" in form_script(plan_job(recipe, []))
    assert plan_job(recipe, ["tracking.uri=http://other:1"]).tracking is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hush@mlflow:5000")
    for form in (form_script, form_manifest):
        text = form(plan_job(recipe, []))
        assert "hush" not in text and "MLFLOW_TRACKING_URI" in text
    with pytest.raises(RunError, match="secret"):
        plan_job(recipe, ["tracking.uri=http://me:hush@mlflow:5000"])


def test_the_command_writes_a_file(recipe: Path) -> None:
    folder = recipe.parent
    assert ftrun("launch", "recipe.yaml", cwd=folder).returncode == 2
    result = ftrun("launch", "recipe.yaml", "--slurm", "--output", "job.sbatch", cwd=folder)
    assert result.returncode == 0 and "--ntasks-per-node=8" in (folder / "job.sbatch").read_text()


def test_a_count_of_processes_without_a_rank_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from ftrun.runner.ranks import count_ranks
    from ftrun.schemas.errors import RunError

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(RunError, match="WORLD_SIZE is 2 in the environment and RANK is not set"):
        count_ranks()
